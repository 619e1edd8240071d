"""The tab Models: which models there are, and how to get some."""

import html
from typing import Final

import gradio as gr

from medsam2_ft.serve.engine import Engine
from medsam2_ft.serve.registry import Entry

NO_MODEL: Final = """### There is no model yet

The server looks again whenever this list is shown; nothing needs a restart.

* **Official SAM 2 weights**: `medsam2-ft weights --download sam2.1_hiera_tiny` puts them into the
  folder `checkpoints/` of the place where the server was started. Without a network, copy the file
  there under its own name, `sam2.1_hiera_tiny.pt`. `medsam2-ft weights` says what is there and
  whether it is intact.
* **Your own**: start the server with `medsam2-ft serve --watch 'runs/*/exports'`; each export of
  `train.py fit` appears as RUN/FILE as soon as it is complete.
* **A list**: `medsam2-ft serve --models models.yaml`.
"""
_HOW: Final = "New exports in watched folders appear here and in the tabs without a restart."


def known(engine: Engine, chosen: str | None) -> gr.Dropdown:
    """Offers the models that there are now, and keeps what was chosen where it still exists."""
    entries = list(engine.entries())
    return gr.Dropdown(choices=entries, value=chosen if chosen in entries else engine.default_model)


def table(engine: Engine) -> str:
    """Lists the models as Markdown, or says how to get some."""
    entries = engine.entries()
    if not entries:
        return NO_MODEL
    rows = [_row(engine, entry) for entry in entries.values()]
    head = "| model | from | image size | strategy | in memory |\n| --- | --- | --- | --- | --- |"
    return "\n".join([head, *rows, "", f"{_HOW} Device: {engine.device}."])


def _row(engine: Engine, entry: Entry) -> str:
    cells = [
        html.escape(entry.model_id),
        entry.origin,
        str(entry.image_size or "own"),
        entry.strategy or "own",
        "yes" if engine.is_loaded(entry.model_id) else "no",
    ]
    if entry.model_id == engine.default_model:
        cells[0] += " (default)"
    return f"| {' | '.join(cells)} |"
