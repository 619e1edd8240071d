"""Which component calls which handler."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from medsam2_ft.serve.ui.desk import KEEP_ALIVE_S
from medsam2_ft.serve.ui.files import FileActions
from medsam2_ft.serve.ui.layout import Parts
from medsam2_ft.serve.ui.prompting import PromptActions
from medsam2_ft.serve.ui.spreading import SpreadActions
from medsam2_ft.serve.ui.tab import Tab


def connect(parts: Parts, tab: Tab) -> None:
    """Connects a tab, within the context of its Blocks."""
    _connect_files(parts, FileActions(tab))
    _connect_slices(parts, PromptActions(tab), tab)
    _connect_spreading(parts, SpreadActions(tab))


def _on(
    event: Callable[..., Any],
    handler: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any] | Any,
    name: str | None = None,
    **how: Any,
) -> None:
    """Connects a handler; with a name, ``gradio_client`` can call it, too."""
    event(
        handler,
        list(inputs),
        outputs,
        api_name=name,
        api_visibility="private" if name is None else "undocumented",
        **{"show_progress": "hidden", **how},
    )


def _connect_files(parts: Parts, files: FileActions) -> None:
    kind = parts.kind
    intensities = [parts.model, parts.modality, parts.window, parts.level, parts.width]
    shown = [parts.canvas, parts.index, parts.table, parts.undo, parts.redo, parts.status]
    results = [parts.result, parts.film, parts.solid]
    _on(
        parts.file.upload,
        files.open,
        [parts.seat, parts.file, *intensities, parts.rate],
        [parts.seat, parts.axis, parts.object_id, parts.name, parts.progress, parts.first,
         parts.last, *shown, *results],
        f"{kind}_open",
        show_progress="full",
        show_progress_on=parts.status,
    )  # fmt: skip
    _on(
        parts.file.clear,
        files.close,
        [parts.seat],
        [parts.seat, parts.canvas, parts.table, parts.status, parts.progress, *results],
        f"{kind}_close",
    )
    where = [parts.axis, parts.index, parts.object_id]
    chosen = [parts.model.input, parts.modality.input, parts.window.input]
    for number, event in enumerate([*chosen, parts.level.submit, parts.width.submit]):
        _on(
            event,
            files.reopen,
            [parts.seat, *intensities, *where],
            [*shown, parts.progress],
            f"{kind}_reopen" if number == 0 else None,
            show_progress="full",
            show_progress_on=parts.status,
        )
    _on(
        parts.save.click,
        files.save,
        [parts.seat, parts.format],
        [parts.result, parts.film],
        f"{kind}_save",
        show_progress="full",
        show_progress_on=parts.save,
    )
    _on(parts.accept.click, files.accept, [parts.seat], [parts.status], f"{kind}_accept")
    _on(parts.show_solid.click, files.solid, [parts.seat], parts.solid, show_progress="full")
    timer = gr.Timer(KEEP_ALIVE_S)
    _on(timer.tick, files.keep_alive, [parts.seat], parts.seat, queue=False)


def _connect_slices(parts: Parts, slices: PromptActions, tab: Tab) -> None:
    kind = parts.kind
    at = [parts.axis, parts.index]
    fast: dict[str, Any] = {"queue": False, "trigger_mode": "always_last"}
    shown = [parts.canvas, parts.index, parts.table, parts.undo, parts.redo, parts.status]
    _on(
        parts.index.input,
        tab.show,
        [parts.seat, *at, parts.object_id],
        parts.canvas,
        f"{kind}_show",
        **fast,
    )
    _on(
        parts.canvas.select,
        slices.step,
        [parts.seat, *at, parts.object_id],
        [parts.index, parts.canvas],
        **fast,
    )
    _on(
        parts.axis.input,
        slices.turn,
        [parts.seat, parts.axis, parts.object_id],
        [parts.index, parts.first, parts.last, parts.canvas],
        f"{kind}_turn",
    )
    _on(
        parts.canvas.submit,
        slices.draw,
        [parts.seat, parts.object_id],
        [*shown, *parts.box, *parts.point],
        show_progress="minimal",
        show_progress_on=parts.status,
        trigger_mode="multiple",
    )
    said = [parts.seat, parts.object_id, *at]
    _on(parts.use_box.click, slices.box, [*said, *parts.box], shown, f"{kind}_box")
    _on(parts.use_plus.click, slices.plus, [*said, *parts.point], shown, f"{kind}_plus")
    _on(parts.use_minus.click, slices.minus, [*said, *parts.point], shown, f"{kind}_minus")
    for button, handler in (
        (parts.clear_slice, slices.clear_slice),
        (parts.undo, slices.undo),
        (parts.redo, slices.redo),
        (parts.remove_object, slices.remove_object),
    ):
        _on(button.click, handler, said, shown, f"{kind}_{handler.__name__}")
    _on(
        parts.new_object.click,
        slices.new_object,
        [parts.seat, *at],
        [parts.seat, parts.name, parts.object_id, parts.canvas],
        f"{kind}_new_object",
    )
    _on(parts.object_id.input, slices.choose, said, [parts.name, parts.canvas])
    for event, name in ((parts.name.submit, f"{kind}_rename"), (parts.name.blur, None)):
        _on(
            event,
            slices.rename,
            [parts.seat, parts.object_id, parts.name],
            [parts.seat, parts.table, parts.object_id],
            name,
        )


def _connect_spreading(parts: Parts, spread: SpreadActions) -> None:
    _on(
        parts.propagate.click,
        spread.propagate,
        [parts.seat, parts.object_id, parts.axis, parts.index, parts.first, parts.last,
         parts.direction, parts.strategy],
        [parts.progress, parts.cancel, parts.propagate, parts.index, parts.canvas, parts.table,
         parts.undo, parts.redo, parts.status],
        f"{parts.kind}_propagate",
    )  # fmt: skip
    _on(
        parts.cancel.click,
        spread.cancel,
        [parts.seat],
        [parts.cancel],
        f"{parts.kind}_cancel",
        queue=False,
    )
