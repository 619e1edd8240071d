"""3D Slicer's ``.seg.nrrd``: named segments, in several layers where they overlap.

Written without ITK, whose writer cannot mark the axis of the layers as a ``list``, which Slicer
and slicerio ask for. Header keys:
https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html
"""

import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import label_ids
from medsam2_ft.io.atomic import atomic_path
from medsam2_ft.io.checks import MAX_LABEL_ID, as_label_map, check_disjoint_ids
from medsam2_ft.io.itk import read_layers
from medsam2_ft.types import LabelVolume

_COLOURS = ("0.90 0.10 0.29", "0.24 0.71 0.29", "1 0.88 0.10", "0 0.51 0.78", "0.96 0.51 0.19")


@dataclass(frozen=True)
class _Segment:
    """One segment of the header: its name, and the voxels ``map[layer] == value``."""

    name: str
    layer: int
    value: int


def read_seg_nrrd(path: Path) -> LabelVolume:
    """Reads a segmentation of one or several layers.

    Layers may use the same value for different segments; a label id here occurs once. A value
    that an earlier layer has taken gets the next free id above all values of the file.

    Raises:
        UserError: Damaged, truncated, or the header's segments do not fit the layers.
    """
    array, geometry, texts = read_layers(path)
    count = array.shape[-1]
    segments = list(_segments(path, texts, count))
    maps = [
        np.ascontiguousarray(as_label_map(f"{path}: layer {layer}", array[..., layer]))
        for layer in range(count)
    ]
    present = [set(label_ids(layer)) for layer in maps]
    for segment in segments:
        present[segment.layer].add(segment.value)
    ids = _unique_ids(path, present)
    names = {ids[segment.layer, segment.value]: segment.name for segment in segments}
    return LabelVolume(
        tuple(_renumber(label_map, layer, ids) for layer, label_map in enumerate(maps)),
        names,
        geometry,
    )


def _segments(path: Path, texts: Mapping[str, str], layers: int) -> Iterator[_Segment]:
    pattern = re.compile(r"Segment(\d{1,6})_(?:ID|Name|LabelValue|Layer)")
    matches = (pattern.fullmatch(key) for key in texts)
    for index in sorted({int(match[1]) for match in matches if match}):
        # files from before Slicer 4.11 have no value and layer: one layer for each segment
        layer = texts.get(f"Segment{index}_Layer", str(index) if layers > 1 else "0")
        value = texts.get(f"Segment{index}_LabelValue", "1")
        if not (layer.strip().isdecimal() and value.strip().isdecimal()):
            layer, value = "-1", "0"
        if not (0 <= int(layer) < layers and 0 < int(value) <= MAX_LABEL_ID):
            raise UserError(
                f"{path}: Segment{index} names layer or label value that the file does not have "
                f"({layers} layers); save the segmentation again in 3D Slicer"
            )
        name = texts.get(f"Segment{index}_Name") or texts.get(f"Segment{index}_ID") or ""
        yield _Segment(name or f"Segment_{index + 1}", int(layer), int(value))


def _unique_ids(path: Path, present: Sequence[set[int]]) -> dict[tuple[int, int], int]:
    """Maps (layer, value) to a label id that occurs once."""
    free = max((value for values in present for value in values), default=0) + 1
    ids: dict[tuple[int, int], int] = {}
    taken: set[int] = set()
    for layer, values in enumerate(present):
        for value in sorted(values):
            label = free if value in taken else value
            free += value in taken
            taken.add(label)
            ids[layer, value] = label
    if free - 1 > MAX_LABEL_ID:
        raise UserError(
            f"{path}: needs label ids above {MAX_LABEL_ID}; use smaller label values in its layers"
        )
    return ids


def _renumber(
    label_map: NDArray[Any], layer: int, ids: Mapping[tuple[int, int], int]
) -> NDArray[Any]:
    own = {value: label for (at, value), label in ids.items() if at == layer}
    if all(value == label for value, label in own.items()):
        return label_map
    table: NDArray[Any] = np.zeros(
        max(own) + 1, np.uint8 if max(own.values()) <= 255 else np.uint16
    )
    for value, label in own.items():
        table[value] = label
    return np.take(table, label_map)


def write_seg_nrrd(path: Path, labels: LabelVolume) -> None:
    """Writes every label id as one segment; further maps become further layers. Atomic.

    Ids without a name are called ``Segment_<id>``. A name may hold any text but line breaks,
    which become spaces. Equal label volumes give equal bytes.

    Raises:
        UserError: No map, maps of different grids, an id in two maps, or the file cannot be
            written.
    """
    if not labels.maps or any(m.shape != labels.maps[0].shape or m.ndim != 3 for m in labels.maps):
        raise UserError(f"{path}: label maps must share one (z, y, x) grid; correct them")
    maps = [as_label_map(f"{path}: map {i}", m) for i, m in enumerate(labels.maps)]
    check_disjoint_ids(str(path), maps)
    dtype = np.uint8 if all(m.dtype == np.uint8 for m in maps) else np.uint16
    header = _header(labels, maps, dtype)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(header.encode())
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=stream, mtime=0) as data:
            for z in range(maps[0].shape[0]):
                planes = np.stack([m[z] for m in maps], axis=-1)
                data.write(planes.astype(np.dtype(dtype).newbyteorder("<")).tobytes())


def _header(labels: LabelVolume, maps: Sequence[NDArray[Any]], dtype: type) -> str:
    z, y, x = maps[0].shape
    layered = len(maps) > 1
    matrix = np.array(labels.geometry.direction).reshape(3, 3)
    axes = [matrix[:, i] * labels.geometry.spacing_mm[2 - i] for i in range(3)]
    lines = [
        "NRRD0004",
        f"type: {'unsigned char' if dtype is np.uint8 else 'unsigned short'}",
        f"dimension: {4 if layered else 3}",
        "space: left-posterior-superior",
        f"sizes: {f'{len(maps)} ' if layered else ''}{x} {y} {z}",
        "space directions: " + ("none " if layered else "") + " ".join(map(_vector, axes)),
        f"kinds: {'list ' if layered else ''}domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(labels.geometry.origin_mm)}",
        *_segment_lines(labels, maps),
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ]
    return "\n".join(lines) + "\n\n"


def _vector(values: Sequence[float] | NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"


def _segment_lines(labels: LabelVolume, maps: Sequence[NDArray[Any]]) -> Iterator[str]:
    z, y, x = maps[0].shape
    found = [(label, layer) for layer, m in enumerate(maps) for label in label_ids(m)]
    named = {label for label, _ in found}
    found += [(label, 0) for label in sorted(labels.label_names) if label not in named]
    for index, (label, layer) in enumerate(sorted(found)):
        name = " ".join(str(labels.label_names.get(label, f"Segment_{label}")).split())
        prefix = f"Segment{index}_"
        yield f"{prefix}Color:={_COLOURS[index % len(_COLOURS)]}"
        yield f"{prefix}ColorAutoGenerated:=1"
        yield f"{prefix}Extent:=0 {x - 1} 0 {y - 1} 0 {z - 1}"
        yield f"{prefix}ID:=Segment_{label}"
        yield f"{prefix}LabelValue:={label}"
        yield f"{prefix}Layer:={layer}"
        yield f"{prefix}Name:={_escape(name)}"
        yield f"{prefix}NameAutoGenerated:=0"
        yield f"{prefix}Tags:=Segmentation.Status:inprogress|"


def _escape(text: str) -> str:
    """NRRD's own escape of backslashes in the value of a key."""
    return text.replace("\\", "\\\\")
