"""The picture that a person draws on, and the 3D view: HTML components with a little JavaScript.

Functions and no subclasses: Gradio writes a stub file beside each module that makes one.
"""

from importlib import resources
from typing import Any, Final

import gradio as gr

STATIC_PATH: Final = "page-files"
"""Where the page finds ``static``, relative to itself."""


def prompt_canvas(**options: Any) -> gr.HTML:
    """Shows what ``picture.slice_view`` makes; a box or point comes back in image pixels.

    ``submit`` fires when something was drawn: its data has ``axis``, ``index`` and either ``box``
    (``[x0, y0, x1, y1]``, inclusive) or ``point`` (``[x, y]``) with ``label``. ``select`` fires
    when the wheel or a key asks for another slice: its data has ``step``.
    """
    return _component("canvas", **options)


def volume_view(**options: Any) -> gr.HTML:
    """Shows what ``solid.scene`` makes with NiiVue, which is loaded when it is first needed."""
    return _component("solid", **options)


def _component(name: str, **options: Any) -> gr.HTML:
    return gr.HTML(
        html_template=_text(f"{name}.html"),
        css_template=_text(f"{name}.css"),
        js_on_load=_text(f"{name}.js").replace("PAGE_FILES", STATIC_PATH),
        apply_default_css=False,
        **options,
    )


def _text(name: str) -> str:
    return resources.files("medsam2_ft.serve.ui").joinpath("static", name).read_text("utf-8")
