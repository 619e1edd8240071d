"""Where the prompts of a volume come from: boxes that a user gives, or labels that are known.

One prompt stands for one object: on the middle slice of its first and last, the labelled one that
lies nearest where labels are known, and for the slices from its first to its last. Frames are the
slices along the first axis; for another axis the maps are turned before (``frames_along``).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Integer
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import label_ids
from medsam2_ft.object_prompts import ObjectPrompt, SlicePrompt
from medsam2_ft.prompts import INWARD_LIMIT, mask_to_box, middle_slice, pad_box, scale_boxes
from medsam2_ft.propagate import MARGIN_REFERENCE_SIZE, Strategy
from medsam2_ft.types import Case, LabelVolume

PromptKind = Literal["box", "points", "mask"]
PromptProtocol = Literal["middle", "paper"]
ZRange = Literal["object", "full"]


@dataclass(frozen=True)
class Simulation:
    """How prompts are made from labels.

    Attributes:
        kind: ``box``; ``points``, the one inside that lies farthest from the outline of the
            largest piece; or ``mask``, the labelled slice itself.
        margin_px: Margin around boxes in pixels of a 1024 input, scaled to the image.
        z_range: The slices to segment: from the object's first to its last (``object``), or all.
        protocol: ``middle``: the middle slice's own box. ``paper``: what arXiv 2408.03322 does;
            boxes only, and half of it: ``Segmenter`` does the other half by the same name.
        strategy: Matters to ``paper`` alone. ``box``: the middle slice, with the box of the slice
            where the object is largest. ``memory``: slice ``(z1 - z0 + 1) // 2 + z0``, with the
            box around the object in all slices.
        box_noise_px: Each side of a box moves by its own whole number of pixels of a 1024 input,
            uniform between this many inward and outward; inward by no more than a quarter of the
            side's length. Applied before the margin.
        seed: Of the noise, which is a function of seed, case name and label alone.
    """

    kind: PromptKind = "box"
    margin_px: float = 5.0
    z_range: ZRange = "object"
    protocol: PromptProtocol = "middle"
    strategy: Strategy = "box"
    box_noise_px: int = 0
    seed: int = 0


def prompts_from_box3d(
    box_xyzxyz: Float32[np.ndarray, " 6"], object_id: int, depth: int
) -> ObjectPrompt:
    """Puts a 3D box on its middle slice, ``(z0 + z1) // 2``; its z range is segmented.

    Args:
        box_xyzxyz: ``x0, y0, z0, x1, y1, z1``, inclusive voxel indices; z is rounded and cut to
            the volume.
        object_id: The object's id.
        depth: Number of slices.

    Raises:
        UserError: The box lies beyond the slices, is not finite or ends before it starts.
    """
    shown = ",".join(f"{float(side):g}" for side in box_xyzxyz)
    if not np.isfinite(box_xyzxyz).all() or (box_xyzxyz[:3] > box_xyzxyz[3:]).any():
        raise UserError(
            f"object {object_id}: box {shown} is not x0,y0,z0,x1,y1,z1 with finite numbers, the "
            "first three not above the last three."
        )
    first, last = (round(float(box_xyzxyz[side])) for side in (2, 5))
    if last < 0 or first >= depth:
        raise UserError(
            f"object {object_id}: box {shown} (x0,y0,z0,x1,y1,z1) lies beyond slices 0-{depth - 1}."
        )
    first, last = max(first, 0), min(last, depth - 1)
    flat = box_xyzxyz[[0, 1, 3, 4]].astype(np.float32)
    return ObjectPrompt.from_box(object_id, (first + last) // 2, flat, (first, last))


def stored_prompts(case: Case) -> list[ObjectPrompt]:
    """Turns the boxes of a case into prompts, in the order of its box labels.

    A 2D box belongs to the only slice of an image. A case without boxes has no prompts.

    Raises:
        UserError: 2D boxes in a volume (nobody knows on which slice they lie), or a box that
            ``prompts_from_box3d`` refuses.
    """
    if case.boxes is None:
        return []
    if case.boxes.shape[1] == 4 and len(case.image) > 1:
        raise UserError(
            f"{case.name}: 2D boxes in a volume of {len(case.image)} slices; give 3D boxes"
            " x0,y0,z0,x1,y1,z1"
        )
    prompts = []
    for label, row in zip(case.box_labels, case.boxes, strict=True):
        box = row.astype(np.float32)
        if len(row) == 4:
            prompts.append(ObjectPrompt.from_box(label, 0, box, (0, 0)))
        else:
            prompts.append(prompts_from_box3d(box, label, len(case.image)))
    return prompts


def frames_along(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """Returns a view whose frames are the slices across an axis of ``(z, y, x[, 3])``.

    Args:
        array: Image or label map.
        axis: 0, 1 or 2. The other two axes keep their order: frames are ``(y, x)``, ``(z, x)`` or
            ``(z, y)``, and prompts give columns (``x``) and rows (``y``) of that.

    Raises:
        UserError: Another axis.
    """
    if axis not in (0, 1, 2):
        raise UserError(f"axis {axis} is none of 0 (z), 1 (y) and 2 (x); choose one of them.")
    return np.moveaxis(array, axis, 0)


def prompts_from_labels(
    labels: LabelVolume | Case | Sequence[NDArray[Any]],
    *,
    margin_px: float = 5.0,
    z_range: ZRange = "object",
    protocol: PromptProtocol = "middle",
    strategy: Strategy = "box",
    kind: PromptKind = "box",
    box_noise_px: int = 0,
    seed: int = 0,
    name: str = "",
    axis: int = 0,
) -> list[ObjectPrompt]:
    """Simulates one prompt for each label that has voxels, by map and id.

    Args:
        labels: What is known; of a case its labels, not the boxes stored with it. A label without
            voxels has no prompt; ``empty_labels`` lists those that are named.
        margin_px: This and the next six: see ``Simulation``.
        z_range: See there.
        protocol: See there.
        strategy: See there.
        kind: See there.
        box_noise_px: See there.
        seed: See there.
        name: Of the case, for the noise; a ``Case`` has its own.
        axis: Axis whose slices are frames, see ``frames_along``.

    Raises:
        UserError: Another axis, or points or masks with protocol ``paper``.
    """
    how = Simulation(kind, margin_px, z_range, protocol, strategy, box_noise_px, seed)
    if isinstance(labels, Case):
        name = labels.name
    turned = [frames_along(label_map, axis) for label_map in _maps(labels)]
    return [prompt for label_map in turned for prompt in label_prompts(label_map, how, name)]


def _maps(labels: LabelVolume | Case | Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
    if isinstance(labels, Case):
        return labels.label_maps
    return labels.maps if isinstance(labels, LabelVolume) else labels


def empty_labels(labels: LabelVolume | Case) -> tuple[int, ...]:
    """Returns the ids that have a name and no voxel, ascending: nothing can prompt them."""
    present = {label for label_map in _maps(labels) for label in label_ids(label_map)}
    return tuple(sorted(set(labels.label_names) - present))


def label_prompts(
    label_map: Integer[np.ndarray, "z h w"],
    how: Simulation,
    case: str,
    ids: Mapping[int, int] | None = None,
) -> Iterator[ObjectPrompt]:
    """Yields the prompt of every label of a map in ascending order.

    Args:
        label_map: Frames along its first axis.
        how: See ``Simulation``.
        case: Name of the case, for the noise.
        ids: Object ids of the label values, where they are not the values themselves.

    Raises:
        UserError: Points or masks with protocol ``paper``.
    """
    from scipy.ndimage import find_objects

    if how.kind != "box" and how.protocol != "middle":
        raise UserError(f"protocol paper prompts with boxes, not with {how.kind}.")
    depth = len(label_map)
    for value, where in enumerate(find_objects(label_map), start=1):
        if where is None:
            continue
        object_id = value if ids is None else ids[value]
        inside = label_map[where] == value
        first, last = where[0].start, where[0].stop - 1
        part = _slice_prompt(label_map, value, where, inside, how, (case, object_id))
        yield ObjectPrompt(
            object_id, (part,), (0, depth - 1) if how.z_range == "full" else (first, last)
        )


def _slice_prompt(
    label_map: Integer[np.ndarray, "z h w"],
    value: int,
    where: Sequence[slice],
    inside: Bool[np.ndarray, "dz dy dx"],
    how: Simulation,
    key: tuple[str, int],
) -> SlicePrompt:
    """What stands for one object on its slice; ``inside`` is its mask, cropped to ``where``."""
    first, last = where[0].start, where[0].stop - 1
    areas = inside.sum(axis=(1, 2))
    middle = middle_slice([first + int(z) for z in np.flatnonzero(areas)])
    if how.kind == "mask":
        return SlicePrompt(middle, mask=np.asarray(label_map[middle] == value))
    if how.kind == "points":
        return _central_point(middle, inside[middle - first], where)
    frame, flat = middle, inside[middle - first]
    if how.protocol == "paper" and how.strategy == "box":
        flat = inside[int(areas.argmax())]
    elif how.protocol == "paper":
        frame, flat = (last - first + 1) // 2 + first, inside.any(axis=0)
    tight = tight_box(flat) + np.array([where[2].start, where[1].start] * 2, np.float32)
    return SlicePrompt(frame, _loosened(tight, label_map.shape[1:], how, key))


def _loosened(
    tight: Float32[np.ndarray, " 4"],
    hw: Sequence[int],
    how: Simulation,
    key: tuple[str, int],
) -> Float32[np.ndarray, " 4"]:
    """The box with noise and margin, both in pixels of a 1024 input."""
    native, size = (hw[0], hw[1]), (MARGIN_REFERENCE_SIZE, MARGIN_REFERENCE_SIZE)
    box = scale_boxes(tight[None], native, size)[0]
    if how.box_noise_px:
        text = f"{how.seed}\0{key[0]}\0{key[1]}"
        rng = np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))
        shift = rng.integers(-how.box_noise_px, how.box_noise_px, size=4, endpoint=True)
        sides = np.tile(box[2:] - box[:2], 2)
        outward = np.maximum(shift, -INWARD_LIMIT * sides)
        box = (box + outward * np.array([-1, -1, 1, 1])).astype(np.float32)
        # A scaled box may end at S - S/w > S - 1; clipping must not shrink it.
        box = np.clip(box, 0, size[0] - np.tile([size[0] / native[1], size[0] / native[0]], 2))
    padded = pad_box(box.astype(np.float32), how.margin_px, size)
    rescaled: Float32[np.ndarray, " 4"] = scale_boxes(padded[None], size, native)[0]
    return rescaled


def _central_point(
    frame: int, mask: Bool[np.ndarray, "h w"], where: Sequence[slice]
) -> SlicePrompt:
    """The pixel of the largest piece that lies farthest from its outline; the image ends there."""
    from scipy.ndimage import distance_transform_edt, label

    pieces, _ = label(mask)
    largest = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    depth = distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    point = [[where[2].start + int(column), where[1].start + int(row)]]
    return SlicePrompt(
        frame, points_xy=np.array(point, np.float32), point_labels=np.array([1], np.int32)
    )


def tight_box(mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, " 4"]:
    """Returns the box of a mask that has pixels."""
    box = mask_to_box(mask)
    assert box is not None, "only masks with pixels are prompted"
    return box
