"""Files that the page gives: masks, and of videos the overlay."""

import zipfile
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.segmenting.overlay import Scene, write_overlay
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.results import label_maps, labels_file
from medsam2_ft.serve.sessions import Held
from medsam2_ft.serve.ui.desk import USUAL_RATE
from medsam2_ft.types import LabelVolume

FILM: Final = "overlay.mp4"


def save(held: Held, kind: str, folder: Path, names: Mapping[int, str], rate: float | None) -> Path:
    """Writes a session's masks.

    Args:
        held: The session.
        kind: ``nii.gz``, ``nrrd``, ``npz``, ``png``, ``masks.zip`` or ``overlay.mp4``.
        folder: Where.
        names: Of objects, for the overlay.
        rate: Frames per second, for the overlay.

    Raises:
        Problem: There is no mask, or no such kind.
        UserError: The format cannot hold them.
    """
    core = held.ready()
    if not any(core.mask(object_id).any() for object_id in core.objects):
        raise Problem(409, "There is no mask yet.", "Draw a box around an object first.")
    if kind in ("nii.gz", "nrrd", "npz", "png"):
        payload = labels_file(held, kind, keep=kind == "npz")  # type: ignore[arg-type]
        path = folder / payload.name
        path.write_bytes(payload.content)
        return path
    with core.lock:
        maps = label_maps(core, keep=kind == FILM)
        ids = core.objects
    if kind == "masks.zip":
        return masks_zip(folder / kind, maps[0])
    if kind == FILM:
        return film(folder / kind, core.image, maps, ids, names, rate or USUAL_RATE)
    raise Problem(422, "There is no such format.")


def masks_zip(path: Path, labels: NDArray[Any]) -> Path:
    """Writes one PNG for each frame, whose pixels are object ids, into an archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, plane in enumerate(labels):
            _, content = cv2.imencode(".png", np.ascontiguousarray(plane))
            archive.writestr(f"frame_{number:05d}.png", content.tobytes())
    return path


def film(
    path: Path,
    image: NDArray[np.uint8],
    maps: Iterable[NDArray[Any]],
    ids: Iterable[int],
    names: Mapping[int, str],
    rate: float,
) -> Path:
    """Writes a video with the masks drawn over it.

    Raises:
        UserError: It cannot be encoded.
    """
    prompts = [ObjectPrompt(object_id, (), (0, len(image) - 1)) for object_id in ids]
    scene = Scene(image, LabelVolume(tuple(maps)), prompts, names, 0, True, "")
    write_overlay(path, scene, Fraction(rate).limit_denominator(1000))
    return path
