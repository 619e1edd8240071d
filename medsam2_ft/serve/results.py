"""Masks of a session as label maps, files and training cases."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io import write_labels
from medsam2_ft.io.atomic import make_folder
from medsam2_ft.io.npz import write_case
from medsam2_ft.serve.core import SegmentationSession
from medsam2_ft.serve.jobs import Payload
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.sessions import Held
from medsam2_ft.serve.wire import changed_box, region_to_json
from medsam2_ft.types import Case, LabelVolume

FileFormat = Literal["nii.gz", "nrrd", "npz", "png"]


def label_maps(core: SegmentationSession, *, keep: bool) -> tuple[NDArray[Any], ...]:
    """Draws all masks into label maps.

    Args:
        core: The session.
        keep: Objects that meet another go to a further map as a whole; else the smaller id keeps
            the voxel.
    """
    ids = core.objects
    dtype = np.uint8 if max(ids, default=0) <= 255 else np.uint16
    maps: list[NDArray[Any]] = [np.zeros(core.shape, dtype)]
    for object_id in ids:
        mask = core.mask(object_id)
        if not keep:
            maps[0][mask & (maps[0] == 0)] = object_id
            continue
        free = next((drawn for drawn in maps if not drawn[mask].any()), None)
        if free is None:
            free = np.zeros(core.shape, dtype)
            maps.append(free)
        free[mask] = object_id
    return tuple(maps)


def labels_file(held: Held, kind: FileFormat, *, keep: bool) -> Payload:
    """Writes the label maps in the source's geometry.

    Raises:
        UserError: The format cannot hold overlaps.
    """
    core = held.ready()
    with core.lock:
        maps = label_maps(core, keep=keep)
    labels = LabelVolume(maps, geometry=held.geometry, has_geometry=held.has_geometry)
    return as_payload(labels, held.folder, kind)


def as_payload(labels: LabelVolume, folder: Path, kind: FileFormat) -> Payload:
    """Writes labels into a folder and takes the file's bytes.

    Raises:
        UserError: The format cannot hold them.
    """
    if len(labels.maps) > 1 and kind != "npz":
        raise UserError(f"{kind} holds one label for each voxel; overlap=keep needs npz.")
    path = folder / f"{secrets.token_hex(8)}.{kind}"
    try:
        write_labels(path, labels)
        return Payload(path.read_bytes(), f"mask.{kind}")
    finally:
        path.unlink(missing_ok=True)


def bits(core: SegmentationSession) -> dict[str, Any]:
    """Returns every object's mask within its bounding box, as JSON holds it."""
    regions = []
    with core.lock:
        for object_id in core.objects:
            mask = core.mask(object_id)
            box = changed_box(np.zeros_like(mask), mask)
            if box is not None:
                offset = [part.start for part in box]
                regions.append(region_to_json(object_id, mask[box], offset))
        return {"shape": list(core.shape), "revision": core.history.revision, "regions": regions}


def accept(held: Held, folder: Path | None, names: Mapping[int, str]) -> dict[str, Any]:
    """Saves image and masks as a training case.

    Raises:
        Problem: 409, the server takes none, or there is no mask.
        UserError: The folder cannot be written.
    """
    core = held.ready()
    if folder is None:
        raise Problem(409, "This server does not save cases.", "Start it with --accept_dir.")
    with core.lock:
        ids = [object_id for object_id in core.objects if core.mask(object_id).any()]
        maps = label_maps(core, keep=True)
    if not ids:
        raise Problem(409, "There is no mask to accept.", "Segment an object first.")
    case = Case(
        f"case_{secrets.token_hex(8)}",
        core.image,
        maps,
        held.geometry,
        held.modality,
        {object_id: names[object_id] for object_id in ids if object_id in names},
        intensity=held.rule,
        is_video=held.is_video,
    )
    write_case(make_folder(folder) / f"{case.name}.npz", case)
    return {"case": case.name, "objects": ids}
