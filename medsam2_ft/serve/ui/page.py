"""The page at ``/ui``."""

import os
from importlib import resources
from pathlib import Path
from typing import Final, get_args

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import FileResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

from medsam2_ft.serve.context import Context
from medsam2_ft.serve.login import PAGE
from medsam2_ft.serve.settings import NOTICE
from medsam2_ft.serve.ui import catalog, endpoints, layout
from medsam2_ft.serve.ui.canvas import STATIC_PATH
from medsam2_ft.serve.ui.desk import Desk
from medsam2_ft.serve.ui.tab import Tab
from medsam2_ft.serve.ui.wiring import connect

_SYSTEM: Final = ["system-ui", "sans-serif"]
_MONO: Final = ["ui-monospace", "monospace"]
_CACHE_S: Final = (600, 3600)
_CSS: Final = """
.ms-notice { background: #fef3c7; color: #78350f; border-radius: 6px; padding: 6px 12px; }
.ms-objects { width: 100%; } .ms-objects td, .ms-objects th { padding: 2px 8px; text-align: left; }
.ms-progress .ms-bar { height: 10px; border-radius: 5px; background: var(--neutral-200); }
.ms-progress .ms-bar div { height: 10px; border-radius: 5px; background: var(--color-accent); }
"""


def mount(app: FastAPI) -> None:
    """Mounts the page on an application that ``api.create_app`` made.

    Gradio keeps uploads and results in one folder of the process, which is set here to one below
    that of the sessions: it goes with them.
    """
    context: Context = app.state.context
    desk = Desk(context)
    desk.folder.mkdir(mode=0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(desk.folder)
    blocks = build(desk)
    files = Path(str(resources.files("medsam2_ft.serve.ui").joinpath("static")))
    app.mount(f"{PAGE}/{STATIC_PATH}", StaticFiles(directory=files))
    app.add_api_route("/", _to_page, include_in_schema=False)
    icon = files / "icon.png"
    app.add_api_route("/favicon.ico", lambda: FileResponse(icon), include_in_schema=False)
    gr.mount_gradio_app(
        app,
        blocks,
        PAGE,
        footer_links=["api"],
        run_history=False,
        show_error=True,
        max_file_size=context.settings.max_upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=_SYSTEM, font_mono=_MONO),
        css=_CSS,
    )


def build(desk: Desk) -> gr.Blocks:
    """Makes the page."""
    settings, engine = desk.context.settings, desk.context.engine
    blocks = gr.Blocks(title="medsam2-ft", analytics_enabled=False, delete_cache=_CACHE_S)
    with blocks:
        gr.HTML(f'<div class="ms-notice"><b>medsam2-ft</b> &middot; {NOTICE}</div>')
        models = []
        with gr.Tabs():
            for kind in get_args(layout.Kind):
                with gr.Tab(kind.capitalize(), id=kind) as item:
                    seat = gr.State(None, delete_callback=desk.release)  # an hour after it left
                    parts = layout.build(kind, seat, accepts=settings.accept_dir is not None)
                    connect(parts, Tab(desk, parts))
                    models.append((item, parts.model))
            with gr.Tab("Models", id="models") as item:
                listed = gr.Markdown(elem_id="models-table")
                again = gr.Button("Look again", size="sm")
                for event, name in (
                    (again.click, "models"),
                    (item.select, None),
                    (blocks.load, None),
                ):
                    event(
                        lambda: catalog.table(engine), None, listed, api_name=name,
                        api_visibility="undocumented" if name else "private", queue=False,
                    )  # fmt: skip
        for item, model in models:
            for event in (item.select, blocks.load):
                event(
                    lambda chosen: catalog.known(engine, chosen), model, model,
                    api_visibility="private", queue=False, show_progress="hidden",
                )  # fmt: skip
        endpoints.add(desk)

        def leave(request: gr.Request) -> None:
            desk.left(request.session_hash)

        blocks.unload(leave)
    blocks.queue(default_concurrency_limit=None, max_size=64 * settings.max_sessions)
    return blocks


async def _to_page() -> RedirectResponse:
    return RedirectResponse(f"{PAGE}/")
