"""What one tab shows of its session."""

from collections.abc import Sequence
from typing import Any, TypeVar

import gradio as gr
from pydantic import BaseModel, ValidationError

from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.sessions import Held
from medsam2_ft.serve.ui import picture
from medsam2_ft.serve.ui.desk import Desk, Seat, kindly
from medsam2_ft.serve.ui.layout import Parts
from medsam2_ft.serve.ui.windows import Number
from medsam2_ft.types import Geometry

Updates = dict[Any, Any]
"""New values by component."""
Asked = TypeVar("Asked", bound=BaseModel)


class Tab:
    """Turns sessions into updates of one tab's components.

    Args:
        desk: Sessions.
        parts: The tab's components.
    """

    def __init__(self, desk: Desk, parts: Parts) -> None:
        self.desk = desk
        self.parts = parts

    def show(
        self, seat: Seat | None, axis: int, index: Number, object_id: int
    ) -> dict[str, Any] | None:
        """Shows a slice; the nearest one where there is none of that index."""
        if seat is None:
            return None
        with kindly():
            held = self.desk.held(seat)
            core = held.ready()
            index = min(max(int(index or 0), 0), core.shape[axis] - 1)
            return picture.slice_view(core, grid(held), axis, index, object_id)

    def changed(self, seat: Seat, axis: int, index: Number, object_id: int) -> Updates:
        """What is shown after any change of a session."""
        held = self.desk.held(seat)
        core = held.ready()
        return {
            self.parts.canvas: self.show(seat, axis, index, object_id),
            self.parts.index: int(index or 0),
            self.parts.table: picture.object_table(core, grid(held), dict(seat.names)),
            self.parts.undo: gr.Button(interactive=core.history.can_undo),
            self.parts.redo: gr.Button(interactive=core.history.can_redo),
            self.parts.status: described(held, seat),
        }

    def turned(self, seat: Seat, axis: int, object_id: int) -> Updates:
        """What is shown of another axis: its middle slice."""
        count = self.desk.held(seat).ready().shape[axis]
        most, middle = max(1, count - 1), count // 2
        return {
            self.parts.index: gr.Slider(maximum=most, value=middle),
            self.parts.first: gr.Slider(maximum=most, value=0),
            self.parts.last: gr.Slider(maximum=most, value=count - 1),
            self.parts.canvas: self.show(seat, axis, middle, object_id),
        }

    def offered(self, seat: Seat, object_id: int) -> Updates:
        """The objects that can be chosen."""
        names = dict(seat.names)
        choices = [(f"{i} {names.get(i, '')}".strip(), i) for i in seat.ids]
        return {self.parts.object_id: gr.Radio(choices=choices, value=object_id)}

    def hidden_results(self) -> Updates:
        """Results of what was open before are taken away."""
        return {
            self.parts.result: gr.File(None, visible=False),
            self.parts.film: gr.Video(None, visible=False),
            self.parts.solid: None,
        }


def checked(schema: type[Asked], **fields: Any) -> Asked:
    """Reads the fields of a request as the API does.

    Raises:
        Problem: 422, a field does not fit.
    """
    try:
        return schema(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Problem(422, f"{place}: {first['msg']}") from error


def grid(held: Held) -> Geometry | None:
    """The geometry, where rows and columns lie in a patient."""
    return held.geometry if held.has_geometry and not held.is_video else None


def described(held: Held, seat: Seat) -> str:
    """Says in a line what is open."""
    core = held.ready()
    sides = core.shape if core.shape[0] > 1 else core.shape[1:]
    parts = [_times(sides)]
    if grid(held) is not None:
        parts.append(f"voxels of {_times(held.geometry.spacing_mm)} mm")
    if seat.rate is not None:
        parts.append(f"{seat.rate:.4g} frames per second")
    if held.rule is not None:
        bounds = f" {held.rule.lower:g} to {held.rule.upper:g}" if held.rule.upper else ""
        parts.append(f"intensities: {held.rule.kind}{bounds}")
    return ", ".join([*parts, f"model {held.model}"])


def _times(sides: Sequence[int | float]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(f"{side:.4g}" for side in sides)
