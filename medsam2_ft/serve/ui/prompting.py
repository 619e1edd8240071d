"""Looking at slices, and saying what belongs to an object."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from medsam2_ft.serve.core import SegmentationSession
from medsam2_ft.serve.history import Region
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.said import slice_prompt
from medsam2_ft.serve.schemas import NewPrompt
from medsam2_ft.serve.ui import picture
from medsam2_ft.serve.ui.desk import Seat, kindly
from medsam2_ft.serve.ui.tab import Tab, Updates, checked, grid
from medsam2_ft.serve.ui.windows import Number


class PromptActions:
    """Handlers of a tab that show or change slices.

    Args:
        tab: What it shows.
    """

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        self.desk = tab.desk
        self.parts = tab.parts

    def step(
        self, event: gr.EventData, seat: Seat | None, axis: int, index: Number, object_id: int
    ) -> Updates:
        """Goes some slices on, for the wheel and the arrow keys."""
        with kindly():
            most = self.desk.held(seat).ready().shape[axis] - 1
            index = min(max(int(index or 0) + int(event.step), 0), most)
            return {
                self.parts.index: index,
                self.parts.canvas: self.tab.show(seat, axis, index, object_id),
            }

    def turn(self, seat: Seat | None, axis: int, object_id: int) -> Updates:
        """Looks along another axis, at its middle slice."""
        if seat is None:
            return {self.parts.index: 0}
        with kindly():
            return self.tab.turned(seat, axis, object_id)

    def draw(self, event: gr.EventData, seat: Seat | None, object_id: int) -> Updates:
        """Takes a box or a point that was drawn, on the slice that was shown then."""
        with kindly():
            axis, index = int(event.axis), int(event.index)
            box = getattr(event, "box", None)
            if box is not None:
                numbers = dict(zip(self.parts.box, box, strict=True))
                return {**self.box(seat, object_id, axis, index, *box), **numbers}
            (x, y), label = event.point, int(event.label)
            numbers = dict(zip(self.parts.point, (x, y), strict=True))
            return {**self._mark(seat, object_id, axis, index, x, y, label), **numbers}

    def box(
        self,
        seat: Seat | None,
        object_id: int,
        axis: int,
        index: Number,
        x0: Number,
        y0: Number,
        x1: Number,
        y1: Number,
    ) -> Updates:
        """Segments the object in a box; it takes the place of what was said on this slice."""
        with kindly():
            if None in (x0, y0, x1, y1):
                raise Problem(422, "A side of the box is missing.", "Give x0, y0, x1 and y1.")
            return self._prompt(
                seat, object_id=object_id, axis=axis, index=index, box=[x0, y0, x1, y1]
            )

    def plus(
        self, seat: Seat | None, object_id: int, axis: int, index: Number, x: Number, y: Number
    ) -> Updates:
        """Says that a point lies on the object."""
        return self._mark(seat, object_id, axis, index, x, y, 1)

    def minus(
        self, seat: Seat | None, object_id: int, axis: int, index: Number, x: Number, y: Number
    ) -> Updates:
        """Says that a point does not lie on the object."""
        return self._mark(seat, object_id, axis, index, x, y, 0)

    def clear_slice(self, seat: Seat | None, object_id: int, axis: int, index: Number) -> Updates:
        """Takes back what was said about the object on this slice, and its mask there."""
        at = int(index or 0)
        return self._change(
            seat, axis, index, object_id, lambda core: core.remove_prompt(object_id, axis, at)
        )

    def undo(self, seat: Seat | None, object_id: int, axis: int, index: Number) -> Updates:
        """Takes the last step back."""
        return self._change(seat, axis, index, object_id, lambda core: core.undo())

    def redo(self, seat: Seat | None, object_id: int, axis: int, index: Number) -> Updates:
        """Does again what was taken back."""
        return self._change(seat, axis, index, object_id, lambda core: core.redo())

    def remove_object(self, seat: Seat | None, object_id: int, axis: int, index: Number) -> Updates:
        """Removes an object with its prompts and mask."""
        return self._change(
            seat, axis, index, object_id, lambda core: core.remove_object(object_id)
        )

    def new_object(self, seat: Seat | None, axis: int, index: Number) -> Updates:
        """Adds an object and chooses it."""
        with kindly():
            core = self.desk.held(seat).ready()
            assert seat is not None
            chosen = max((*seat.ids, *core.objects)) + 1
            seat = replace(seat, ids=(*seat.ids, chosen))
            return {
                self.parts.seat: seat,
                self.parts.name: "",
                **self.tab.offered(seat, chosen),
                self.parts.canvas: self.tab.show(seat, axis, index, chosen),
            }

    def choose(self, seat: Seat | None, object_id: int, axis: int, index: Number) -> Updates:
        """Goes on with another object."""
        name = "" if seat is None else dict(seat.names).get(object_id, "")
        view = self.tab.show(seat, axis, index, object_id)
        return {self.parts.name: name, self.parts.canvas: view}

    def rename(self, seat: Seat | None, object_id: int, name: str) -> Updates:
        """Gives the object a name, for the list and for training cases."""
        with kindly():
            held = self.desk.held(seat)
            assert seat is not None
            seat = seat.named(object_id, name)
            table = picture.object_table(held.ready(), grid(held), dict(seat.names))
            return {
                self.parts.seat: seat,
                self.parts.table: table,
                **self.tab.offered(seat, object_id),
            }

    def _mark(
        self,
        seat: Seat | None,
        object_id: int,
        axis: int,
        index: Number,
        x: Number,
        y: Number,
        label: int,
    ) -> Updates:
        """Adds a point to what is said about this slice."""
        with kindly():
            if x is None or y is None or index is None:
                raise Problem(422, "The point is not complete.", "Give x and y.")
            core = self.desk.held(seat).idle()
            key = (object_id, axis, int(index))
            before = next((said for said in reversed(core.said) if said.key == key), None)
            said: dict[str, Any] = {"points": [[x, y]], "labels": [label]}
            if before is not None and before.prompt.mask is None:
                box = before.prompt.box_xyxy
                said["box"] = None if box is None else box.tolist()
                said["points"] = [*before.prompt.points_xy.tolist(), [x, y]]
                said["labels"] = [*before.prompt.point_labels.tolist(), label]
            return self._prompt(seat, object_id=object_id, axis=axis, index=index, **said)

    def _prompt(self, seat: Seat | None, **said: Any) -> Updates:
        asked = checked(NewPrompt, **said)
        prompt = slice_prompt(asked)
        return self._change(
            seat,
            asked.axis,
            asked.index,
            asked.object_id,
            lambda core: core.prompt(asked.object_id, asked.axis, prompt),
        )

    def _change(
        self,
        seat: Seat | None,
        axis: int,
        index: Number,
        object_id: int,
        work: Callable[[SegmentationSession], list[Region]],
    ) -> Updates:
        with kindly():
            self.desk.change(seat, "prompt", work)
            assert seat is not None
            return self.tab.changed(seat, axis, index, object_id)
