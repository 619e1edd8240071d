"""Image and masks for the 3D view, small enough for a browser."""

import base64
import itertools
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.io import write_volume
from medsam2_ft.overlays import color_of
from medsam2_ft.serve.core import SegmentationSession
from medsam2_ft.serve.results import label_maps
from medsam2_ft.types import Geometry, Volume

MAX_SIDE: Final = 192
_stamps = itertools.count(1)


def scene(core: SegmentationSession, geometry: Geometry, folder: Path) -> dict[str, Any]:
    """Makes what ``canvas.volume_view`` shows; every step-th voxel of the image where it is large.

    Args:
        core: The session.
        geometry: Its grid.
        folder: For files that are read and removed at once.
    """
    gray = core.image if core.image.ndim == 3 else core.image.mean(axis=-1).astype(np.uint8)
    steps = [max(1, -(-side // MAX_SIDE)) for side in gray.shape]
    with core.lock:
        labels = label_maps(core, keep=False)[0]
        ids = core.objects
    slim = tuple(slice(None, None, step) for step in steps)
    z_mm, y_mm, x_mm = (mm * n for mm, n in zip(geometry.spacing_mm, steps, strict=True))
    small = Geometry((z_mm, y_mm, x_mm), geometry.origin_mm, geometry.direction)
    return {
        "image": _nifti(np.ascontiguousarray(gray[slim]), small, folder),
        "mask": _nifti(thinned(labels, steps), small, folder),
        "colors": _colors(ids),
        "stamp": next(_stamps),
    }


def thinned(labels: NDArray[Any], steps: list[int]) -> NDArray[Any]:
    """Keeps the largest id of each block of ``steps`` voxels, so that nothing thin goes."""
    room = [(0, -side % step) for side, step in zip(labels.shape, steps, strict=True)]
    padded = np.pad(labels, room)
    shape = [n for n, step in zip(padded.shape, steps, strict=True) for n in (n // step, step)]
    blocks: NDArray[Any] = padded.reshape(shape).max(axis=(1, 3, 5))
    return blocks


def _nifti(array: NDArray[Any], geometry: Geometry, folder: Path) -> str:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "a.nii.gz"
        write_volume(path, Volume(array, geometry))
        return base64.b64encode(path.read_bytes()).decode("ascii")


def _colors(ids: tuple[int, ...]) -> dict[str, list[Any]]:
    """NiiVue's label colours: background clear, each object its colour."""
    rows = [(0, 0, 0, 0, 0), *((i, *color_of(i - 1), 255) for i in ids)]
    index, red, green, blue, alpha = (list(column) for column in zip(*rows, strict=True))
    names = ["", *(f"object {object_id}" for object_id in ids)]
    return {"I": index, "R": red, "G": green, "B": blue, "A": alpha, "labels": names}
