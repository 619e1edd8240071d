"""What one case holds, measured: size, labels, gray values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.io.npz import read_case
from medsam2_ft.prepare.leakage import image_sha256
from medsam2_ft.types import Case, IntensityRule

Kind = Literal["2D", "3D", "video"]
HISTOGRAM_BINS = 64


@dataclass(frozen=True)
class LabelFacts:
    """One label of one case.

    Attributes:
        id: The label id.
        name: Its name, where the case gives one.
        voxels: Number of voxels, of a 2D image and a video of pixels.
        volume_mm3: Volume, of a 3D case only.
        slices: Number of slices or frames that hold it.
        box_xyzxyz: ``x0, y0, z0, x1, y1, z1``, inclusive.
        at_border: Whether it touches the edge of a slice, where it may be cut off.
    """

    id: int
    name: str | None
    voxels: int
    volume_mm3: float | None
    slices: int
    box_xyzxyz: tuple[int, ...]
    at_border: bool


@dataclass(frozen=True)
class CaseFacts:
    """One case.

    Attributes:
        name: Name of the case.
        file: Path below the inspected folder, with ``/``.
        split: ``train``, ``val`` or ``test``, where the folder says so.
        kind: ``2D`` (one slice), ``3D`` or ``video``.
        modality: Stored or guessed from the name.
        colour: Whether the image has three channels.
        size_zyx: Slices or frames, rows, columns.
        spacing_mm: Voxel size (z, y, x).
        labels: By ascending id.
        absent_labels: Ids that have a name and no voxel.
        intensity: The rule that made the gray values.
        gray_min: Smallest gray value.
        gray_max: Largest gray value.
        gray_mean: Mean gray value.
        histogram: Voxels (of a colour image: channel values) in each of ``HISTOGRAM_BINS`` equal
            parts of 0-255.
        image_sha256: Checksum of the image's values.
    """

    name: str
    file: str
    split: str | None
    kind: Kind
    modality: str | None
    colour: bool
    size_zyx: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    labels: tuple[LabelFacts, ...]
    absent_labels: tuple[int, ...]
    intensity: IntensityRule | None
    gray_min: int
    gray_max: int
    gray_mean: float
    histogram: tuple[int, ...]
    image_sha256: str


def read_facts(path: Path, file: str, split: str | None) -> CaseFacts:
    """Reads and measures one case.

    Args:
        path: The npz file.
        file: What to call it.
        split: Its split, if there is one.

    Raises:
        UserError: The case cannot be read.
    """
    return measure_case(read_case(path), file, split)


def measure_case(case: Case, file: str, split: str | None) -> CaseFacts:
    """Measures one case.

    Args:
        case: The case; not changed.
        file: See ``CaseFacts``.
        split: See ``CaseFacts``.
    """
    kind = kind_of(case)
    counts = gray_counts(case.image)
    shown = np.flatnonzero(counts)
    labels = sorted(
        (facts for label_map in case.label_maps for facts in measure_labels(label_map, case)),
        key=lambda facts: facts.id,
    )
    present = {label.id for label in labels}
    return CaseFacts(
        name=case.name,
        file=file,
        split=split,
        kind=kind,
        modality=case.modality,
        colour=case.image.ndim == 4,
        size_zyx=case.image.shape[:3],
        spacing_mm=case.geometry.spacing_mm,
        labels=tuple(labels),
        absent_labels=tuple(sorted(set(case.label_names) - present)),
        intensity=case.intensity,
        gray_min=int(shown[0]),
        gray_max=int(shown[-1]),
        gray_mean=float(counts @ np.arange(256) / counts.sum()),
        histogram=tuple(counts.reshape(HISTOGRAM_BINS, -1).sum(axis=1).tolist()),
        image_sha256=image_sha256(case.image),
    )


def kind_of(case: Case) -> Kind:
    """Tells a video from a volume from a single image."""
    if case.is_video:
        return "video"
    return "2D" if case.image.shape[0] == 1 else "3D"


def gray_counts(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns how often each of the values 0-255 occurs, slice by slice.

    Args:
        image: uint8 of any shape with at least one axis.

    Returns:
        ``(256,)``.
    """
    counts = np.zeros(256, np.int64)
    for plane in image:
        counts += np.bincount(plane.ravel(), minlength=256)
    return counts


def measure_labels(label_map: NDArray[Any], case: Case) -> list[LabelFacts]:
    """Measures the labels of one map of a case.

    Args:
        label_map: ``(z, y, x)`` unsigned.
        case: The case it belongs to.

    Returns:
        By ascending id; empty for a map without labels.
    """
    voxels, slices, boxes = _counted(label_map)
    volume_mm3 = float(np.prod(case.geometry.spacing_mm)) if kind_of(case) == "3D" else None
    height, width = label_map.shape[1:]
    result = []
    for label in sorted(voxels):
        x0, y0, z0, x1, y1, z1 = boxes[label]
        result.append(
            LabelFacts(
                id=label,
                name=case.label_names.get(label),
                voxels=voxels[label],
                volume_mm3=None if volume_mm3 is None else voxels[label] * volume_mm3,
                slices=slices[label],
                box_xyzxyz=(x0, y0, z0, x1, y1, z1),
                at_border=x0 == 0 or y0 == 0 or x1 == width - 1 or y1 == height - 1,
            )
        )
    return result


def _counted(
    label_map: NDArray[Any],
) -> tuple[Mapping[int, int], Mapping[int, int], Mapping[int, Sequence[int]]]:
    """Voxels, slices and box of every label, slice by slice."""
    from scipy.ndimage import find_objects

    voxels: dict[int, int] = {}
    slices: dict[int, int] = {}
    boxes: dict[int, list[int]] = {}
    for z, plane in enumerate(label_map):
        if not plane.any():
            continue
        counts = np.bincount(plane.ravel())
        parts = find_objects(plane)
        for label in np.flatnonzero(counts).tolist():
            if label == 0:
                continue
            rows, columns = parts[label - 1]
            part = [columns.start, rows.start, z, columns.stop - 1, rows.stop - 1, z]
            box = boxes.setdefault(label, part)
            box[:3] = [min(pair) for pair in zip(box[:3], part[:3], strict=True)]
            box[3:] = [max(pair) for pair in zip(box[3:], part[3:], strict=True)]
            voxels[label] = voxels.get(label, 0) + int(counts[label])
            slices[label] = slices.get(label, 0) + 1
    return voxels, slices, boxes
