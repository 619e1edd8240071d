"""What a generated release holds, and how its files are written (by nibabel, PIL, numpy alone)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[np.bool_]
AFFINE = np.diag([-0.8, -0.9, 2.5, 1.0])  # (x, y, z) in RAS: the usual radiological axes
SHAPE = (4, 32, 32)


@dataclass(frozen=True)
class Expected:
    """A case that must come out.

    ``labels`` are masks by id in the case's grid; ``patient`` is equal for cases that must stay in
    one split; ``image`` is given where the grid of the image is not simply kept.
    """

    modality: str
    labels: Mapping[int, Mask]
    patient: str
    names: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    video: bool = False
    colour: bool = False
    image: NDArray[Any] | None = None


@dataclass(frozen=True)
class Release:
    """What a generated folder must become: cases, and the reasons of those that are skipped.

    ``hashed`` says that names come out with hashes, because they hold what DICOM calls the patient.
    """

    cases: Mapping[str, Expected]
    skipped: Mapping[str, str] = field(default_factory=dict)
    hashed: bool = False


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def hounsfield(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> NDArray[np.int16]:
    return rng(seed).integers(-200, 300, shape).astype(np.int16)


def gray(seed: int = 0, shape: tuple[int, ...] = (32, 32)) -> NDArray[np.uint8]:
    return rng(seed).integers(0, 256, shape).astype(np.uint8)


def colour(seed: int = 0, side: int = 32) -> NDArray[np.uint8]:
    return gray(seed, (side, side, 3))


def ids(*labels: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    """One box for each label side by side, of sizes that depend on label and seed."""
    result = np.zeros(shape, np.uint8)
    width = shape[-1] // len(labels)
    for place, label in enumerate(labels):
        height = 5 + (7 * label + 3 * seed + place) % 20
        left = place * width
        result[..., 2 : 2 + height, left : left + max(1, width - 1)] = label
    return result


def blob(top: int, left: int, size: int = 6, side: int = 32) -> Mask:
    result = np.zeros((side, side), bool)
    result[top : top + size, left : left + size + 1] = True
    return result


def by_id(labels: NDArray[Any], *wanted: int) -> dict[int, Mask]:
    """Masks of the ids that occur, or of ``wanted``; a picture becomes one slice."""
    volume = labels if labels.ndim == 3 else labels[None]
    chosen = wanted or [int(label) for label in np.unique(labels) if label]
    return {label: volume == label for label in chosen}


def nifti(path: Path, array_zyx: NDArray[Any], affine: NDArray[Any] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array_zyx.T), affine), path)


def picture(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if array.dtype == bool:
        array = np.where(array, 255, 0).astype(np.uint8)
    Image.fromarray(array).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
