"""Prompts as a user writes them on the command line, before they meet an image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medsam2_ft.errors import UserError
from medsam2_ft.io.checks import MAX_LABEL_ID

GivenKind = Literal["box2d", "box3d", "point2d", "point3d"]
Units = Literal["voxels", "mm"]
World = Literal["lps", "ras"]

BOX_FORMS = "x0,y0,x1,y1@slice or x0,y0,z0,x1,y1,z1"
POINT_FORMS = "x,y,z,label or, of a 2D image, x,y,label"


@dataclass(frozen=True)
class Given:
    """One prompt as it was given.

    Attributes:
        where: What the user wrote, or the entry of the file, for messages.
        kind: ``box2d`` is ``x0, y0, x1, y1`` and ``point2d`` ``x, y`` (columns and rows of a
            slice), ``box3d`` is ``x0, y0, z0, x1, y1, z1`` and ``point3d`` ``x, y, z``.
        values: These numbers.
        object_id: From 1; 0 where it was not said.
        slice: Slice of what is 2D; None where it was not said.
        label: Of points: 1 lies on the object, 0 does not.
        name: The object's name, "" where it has none.
        case: Name of the case that it is of, "" for the only one.
        span: First and last slice to segment, None where that was not said.
        units: What the numbers count.
        world: Whose axes millimetres follow.
    """

    where: str
    kind: GivenKind
    values: tuple[float, ...]
    object_id: int = 0
    slice: float | None = None
    label: int = 1
    name: str = ""
    case: str = ""
    span: tuple[int, int] | None = None
    units: Units = "voxels"
    world: World = "lps"


def parse_boxes(texts: Sequence[str], units: Units, world: World) -> list[Given]:
    """Reads ``[object:]x0,y0,x1,y1[@slice]`` and ``[object:]x0,y0,z0,x1,y1,z1``.

    Boxes without an object are objects of their own, numbered from 1 past those that are named.

    Raises:
        UserError: Another form.
    """
    found = []
    for text in texts:
        where = f"--box {text}"
        object_id, rest = _object(where, text)
        numbers, at, place = rest.partition("@")
        values = _numbers(where, numbers, BOX_FORMS)
        if len(values) != (4 if at else len(values)) or len(values) not in (4, 6):
            count = f"{len(values)} numbers{' and a slice' if at else ''}"
            raise UserError(f"{where}: has {count}; give {BOX_FORMS}")
        on = _numbers(where, place, BOX_FORMS) if at else ()
        if len(on) > 1:
            raise UserError(f"{where}: names {len(on)} slices; give {BOX_FORMS}")
        kind: GivenKind = "box2d" if len(values) == 4 else "box3d"
        found.append(
            Given(where, kind, values, object_id, on[0] if on else None, units=units, world=world)
        )
    taken = {box.object_id for box in found}
    free = (number for number in range(1, MAX_LABEL_ID) if number not in taken)
    return [box if box.object_id else replace(box, object_id=next(free)) for box in found]


def parse_points(texts: Sequence[str], units: Units, world: World) -> list[Given]:
    """Reads ``[object:]x,y,z,label`` and ``[object:]x,y,label``; without an object it is 1.

    Raises:
        UserError: Another form.
    """
    found = []
    for text in texts:
        where = f"--points {text}"
        object_id, rest = _object(where, text)
        values = _numbers(where, rest, POINT_FORMS)
        if len(values) not in (3, 4):
            raise UserError(f"{where}: has {len(values)} numbers; give {POINT_FORMS}")
        *place, label = values
        kind: GivenKind = "point2d" if len(place) == 2 else "point3d"
        found.append(
            Given(
                where,
                kind,
                tuple(place),
                object_id or 1,
                label=checked_label(where, label),
                units=units,
                world=world,
            )
        )
    return found


def checked_label(where: str, label: float) -> int:
    """Returns the label of a point.

    Raises:
        UserError: It is neither 0 nor 1.
    """
    if label not in (0, 1):
        raise UserError(f"{where}: label {label:g} is neither 1 (on the object) nor 0 (not on it)")
    return int(label)


def checked_object(where: str, number: int) -> int:
    """Returns the id of an object.

    Raises:
        UserError: It cannot be a label id.
    """
    if not 1 <= number <= MAX_LABEL_ID:
        raise UserError(f"{where}: object {number} is not a number from 1 to {MAX_LABEL_ID}")
    return number


def parse_range(text: str | None) -> tuple[int, int] | Literal["full"] | None:
    """Reads ``first:last`` or ``full``.

    Raises:
        UserError: Another form, or the last before the first.
    """
    if text is None or text == "full":
        return "full" if text else None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal()) or int(first) > int(last):
        raise UserError(
            f"--range {text}: give the first and the last slice, such as 10:25, or full"
        )
    return int(first), int(last)


def parse_names(texts: Sequence[str]) -> dict[int, str]:
    """Reads ``name`` (of objects 1, 2, ... in this order) and ``object=name``.

    Raises:
        UserError: An object that is no number, an object named twice, or no name.
    """
    names: dict[int, str] = {}
    for position, text in enumerate(texts, start=1):
        number, sign, name = text.partition("=")
        if sign and not number.isdecimal():
            raise UserError(f"--names {text}: give NAME or OBJECT=NAME, such as 2=liver")
        object_id = checked_object(f"--names {text}", int(number) if sign else position)
        shown = " ".join((name if sign else text).split())
        if not shown or object_id in names:
            raise UserError(f"--names {text}: names nothing, or object {object_id} once more")
        names[object_id] = shown
    return names


def _object(where: str, text: str) -> tuple[int, str]:
    """Splits what stands before a colon off; 0 where there is none."""
    number, colon, rest = text.partition(":")
    if not colon:
        return 0, text
    if not number.strip().isdecimal():
        raise UserError(f"{where}: {number!r} before the colon is no object number")
    return checked_object(where, int(number)), rest


def _numbers(where: str, text: str, forms: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{where}: is not made of numbers and commas; give {forms}") from None
    if not all(map(math.isfinite, values)):
        raise UserError(f"{where}: holds a number that is not finite; give {forms}")
    return values
