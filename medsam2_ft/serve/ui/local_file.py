"""Uploads that are files, and never addresses that the server would fetch."""

from pathlib import Path
from typing import Any

import gradio as gr


def local_file(**options: Any) -> gr.File:
    """Makes a file component that refuses addresses: Gradio would download them by itself."""
    component = gr.File(**options)
    take = component.async_move_resource_to_block_cache

    async def guarded(url_or_file_path: str | Path | None) -> str | None:
        if "://" in str(url_or_file_path):
            raise gr.Error("Upload the file itself, not its address.", print_exception=False)
        return await take(url_or_file_path)

    component.async_move_resource_to_block_cache = guarded  # type: ignore[method-assign]
    return component
