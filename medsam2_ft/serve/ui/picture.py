"""What the page shows of a session: pure functions from arrays to pictures and HTML."""

import base64
import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from medsam2_ft.overlays import color_of
from medsam2_ft.serve.core import SegmentationSession
from medsam2_ft.serve.history import Said
from medsam2_ft.types import Geometry
from medsam2_ft.volume_prompts import frames_along

_FILL, _LINE = 90, 255
_FAST_PNG: Final = (cv2.IMWRITE_PNG_COMPRESSION, 1)
_LETTERS: Final = (("L", "R"), ("P", "A"), ("S", "I"))
_USUAL: Final = (1, 1, -1)  # a picture's right or bottom: left, posterior, inferior
_PLANES: Final = ("sagittal", "coronal", "axial")
_stamps = itertools.count(1)


def world_axis(geometry: Geometry, axis: int) -> tuple[int, int]:
    """Returns which LPS axis an axis of ``(z, y, x)`` follows most, and its sign."""
    column = np.array(geometry.direction).reshape(3, 3)[:, 2 - axis]
    world = int(np.argmax(np.abs(column)))
    return world, 1 if column[world] > 0 else -1


def axis_names(geometry: Geometry | None) -> list[str]:
    """Names the views along the three axes of ``(z, y, x)``."""
    if geometry is not None:
        world = [world_axis(geometry, axis)[0] for axis in range(3)]
        if sorted(world) == [0, 1, 2]:
            return [_PLANES[index] for index in world]
    return ["slices", "rows", "columns"]


def orientation(geometry: Geometry | None, axis: int) -> tuple[list[bool], list[str]]:
    """How a slice is turned to look as usual.

    Returns:
        Whether columns and rows are flipped, and the letters at the left, right, top and bottom.
    """
    if geometry is None:
        return [False, False], ["", "", "", ""]
    flips, letters = [], []
    rows, columns = (other for other in range(3) if other != axis)
    for side in (columns, rows):
        world, sign = world_axis(geometry, side)
        flips.append(sign != _USUAL[world])
        high, low = _LETTERS[world]
        letters += [low, high] if _USUAL[world] > 0 else [high, low]
    return flips, letters


def slice_view(
    core: SegmentationSession,
    geometry: Geometry | None,
    axis: int,
    index: int,
    object_id: int,
) -> dict[str, Any]:
    """Makes what the canvas shows.

    Args:
        core: The session; read without its lock, a propagation may be running.
        geometry: None where the image has none.
        axis: Axis of ``(z, y, x)``.
        index: Slice along it.
        object_id: The object at hand; decides the colour of what is drawn next.
    """
    plane = frames_along(core.image, axis)[index]
    rows, columns = (other for other in range(3) if other != axis)
    spacing = (1.0, 1.0, 1.0) if geometry is None else geometry.spacing_mm
    flip, edges = orientation(geometry, axis)
    masks = {
        known: frames_along(mask, axis)[index]
        for known, mask in sorted(core.history.masks.copy().items())
    }
    return {
        "image": _png(plane[..., ::-1] if plane.ndim == 3 else plane),
        "mask": _png(mask_layer(masks)) if any(mask.any() for mask in masks.values()) else "",
        "width": int(plane.shape[1]),
        "height": int(plane.shape[0]),
        "aspect": spacing[rows] / spacing[columns],
        "flip": flip,
        "edges": edges,
        "axis": axis,
        "index": index,
        "count": core.shape[axis],
        "color": css_color(object_id),
        "prompts": _shown_prompts(core.said, axis, index),
        "stamp": next(_stamps),
    }


def mask_layer(masks: Mapping[int, NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Draws masks of one slice, filled and outlined, as BGRA; there is one at least."""
    shape = next(iter(masks.values())).shape
    layer = np.zeros((*shape, 4), np.uint8)
    for object_id, mask in masks.items():
        red, green, blue = color_of(object_id - 1)
        layer[mask] = (blue, green, red, _FILL)
        inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0)
        layer[mask & (inner == 0)] = (blue, green, red, _LINE)
    return layer


def css_color(object_id: int) -> str:
    """Returns an object's colour for the browser."""
    return "#{:02x}{:02x}{:02x}".format(*color_of(object_id - 1))


def object_table(
    core: SegmentationSession, geometry: Geometry | None, names: Mapping[int, str]
) -> str:
    """Lists the objects with their size, as HTML."""
    rows = []
    for object_id in core.objects:
        voxels = int(np.count_nonzero(core.mask(object_id)))
        size = f"{voxels:,} pixels"
        if geometry is not None:
            size = f"{volume_cm3(voxels, geometry):.2f} cm³"
        name = html.escape(names.get(object_id, f"object {object_id}"))
        swatch = f'<span style="color:{css_color(object_id)}">&#9632;</span>'
        rows.append(f"<tr><td>{swatch} {object_id}</td><td>{name}</td><td>{size}</td></tr>")
    if not rows:
        return "<p>No object yet: draw a box around one.</p>"
    head = "<tr><th>object</th><th>name</th><th>size</th></tr>"
    return f'<table class="ms-objects">{head}{"".join(rows)}</table>'


def volume_cm3(voxels: int, geometry: Geometry) -> float:
    """Returns the volume of so many voxels."""
    return voxels * float(np.prod(geometry.spacing_mm)) / 1000.0


def progress_bar(done: int, total: int, text: str) -> str:
    """Returns a bar with a line of text, as HTML."""
    share = 100.0 * done / max(total, 1)
    return (
        f'<div class="ms-progress" data-done="{done}" data-total="{total}">'
        f'<div class="ms-bar"><div style="width:{share:.1f}%"></div></div>'
        f"<span>{html.escape(text)}</span></div>"
    )


def _shown_prompts(said: Sequence[Said], axis: int, index: int) -> list[dict[str, Any]]:
    """What was said about a slice: of each object what was said last."""
    latest = {entry.object_id: entry for entry in said if entry.key[1:] == (axis, index)}
    shown: list[dict[str, Any]] = []
    for object_id, entry in latest.items():
        if entry.prompt.box_xyxy is not None:
            box = [float(side) for side in entry.prompt.box_xyxy]
            shown.append({"box": box, "color": css_color(object_id)})
        for point, label in zip(entry.prompt.points_xy, entry.prompt.point_labels, strict=True):
            shown.append({"point": [float(side) for side in point], "label": int(label)})
    return shown


def _png(pixels: NDArray[np.uint8]) -> str:
    _, content = cv2.imencode(".png", np.ascontiguousarray(pixels), _FAST_PNG)
    return "data:image/png;base64," + base64.b64encode(content.tobytes()).decode("ascii")
