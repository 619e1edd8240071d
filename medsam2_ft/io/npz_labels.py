"""The label maps of npz files: ``gts``, ``gts_1``, ..., in the case or in a ``gts`` folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io import npz_fields as fields
from medsam2_ft.io.checks import as_label_map, check_disjoint_ids
from medsam2_ft.io.npz_zip import ArrayHeader, NpzReader, open_npz, write_npz
from medsam2_ft.types import Geometry, LabelVolume


def label_headers(path: Path, reader: NpzReader) -> tuple[Path | None, dict[str, ArrayHeader]]:
    """Finds the label maps of a case: in the file itself, else in the parallel ``gts`` folder.

    Args:
        path: The case.
        reader: The case, opened.

    Returns:
        The file that holds the maps (None where there are none) and their headers in the order
        gts, gts_1, ...

    Raises:
        UserError: Gaps in the numbers of the maps, or a parallel file that is invalid.
    """
    keys = label_keys(reader)
    if keys:
        return path, {key: reader.header(key) for key in keys}
    beside = path.parent.parent if path.parent.name == "imgs" else path.parent
    parallel = beside / "gts" / path.name
    if not parallel.is_file():
        return None, {}
    with open_npz(parallel) as label_reader:
        keys = label_keys(label_reader)
        if not keys:
            raise UserError(f"{parallel}: has no array 'gts'; save the labels under that key")
        return parallel, {key: label_reader.header(key) for key in keys}


def label_keys(reader: NpzReader) -> list[str]:
    """Returns ``gts``, ``gts_1``, ... as far as they are there.

    Raises:
        UserError: A number is missing.
    """
    numbers = sorted(
        int(key[4:]) for key in reader.names if key.startswith("gts_") and key[4:].isdecimal()
    )
    if numbers and ("gts" not in reader or numbers != list(range(1, len(numbers) + 1))):
        raise UserError(
            f"{reader.path}: label maps must be gts, gts_1, gts_2, ... without a gap, found "
            f"{numbers}; rename them"
        )
    first = ["gts"] if "gts" in reader else []
    return first + [f"gts_{number}" for number in numbers]


def read_maps(
    reader: NpzReader, keys: Iterable[str], grid: tuple[int, ...]
) -> tuple[NDArray[Any], ...]:
    """Reads label maps as uint8 or uint16 of shape ``grid``.

    Raises:
        UserError: Invalid labels, or an id in two maps.
    """
    maps = tuple(as_label_map(f"{reader.path}: {k}", reader.read(k).reshape(grid)) for k in keys)
    check_disjoint_ids(str(reader.path), maps)
    return maps


def check_grid(path: Path, key: str, shape: tuple[int, ...], grid: tuple[int, ...]) -> None:
    """Accepts a map of the image's grid; of a 2D image also without the first axis.

    Raises:
        UserError: Any other shape.
    """
    if shape != grid and not (grid[0] == 1 and shape == grid[1:]):
        raise UserError(
            f"{path}: {key} has shape {shape} but the image has the grid {grid}; "
            "labels need the grid of their image: resample or exchange them"
        )


def map_arrays(
    path: Path, maps: tuple[NDArray[Any], ...], grid: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    """The arrays ``gts``, ``gts_1``, ... that a file holds for these maps.

    Raises:
        UserError: Invalid labels, another grid, or an id in two maps.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for number, label_map in enumerate(maps):
        key = f"gts_{number}" if number else "gts"
        check_grid(path, key, label_map.shape, grid)
        arrays[key] = np.ascontiguousarray(as_label_map(f"{path}: {key}", label_map)).reshape(grid)
    check_disjoint_ids(str(path), maps)
    return arrays


def read_lone_labels(path: Path) -> LabelVolume:
    """Reads a file of a ``gts`` folder, which holds labels and no image.

    Raises:
        UserError: The file holds no labels or they are invalid.
    """
    with open_npz(path) as reader:
        keys = label_keys(reader)
        if not keys:
            raise UserError(f"{path}: has no array 'gts'; save the labels under that key")
        shape = reader.header("gts").shape
        grid = shape if len(shape) == 3 else (1, *shape)
        if len(grid) != 3 or 0 in grid:
            raise UserError(
                f"{path}: gts has shape {shape}; save one label map as (D, H, W) or (H, W)"
            )
        for key in keys:
            check_grid(path, key, reader.header(key).shape, grid)
        maps = read_maps(reader, keys, grid)
        names, geometry = fields.read_label_names(reader), fields.read_geometry(reader)
        return LabelVolume(maps, names, geometry, has_geometry=geometry != Geometry())


def write_lone_labels(path: Path, labels: LabelVolume) -> None:
    """Writes label maps alone, as they lie in a ``gts`` folder.

    Raises:
        UserError: The maps are invalid or the file cannot be written.
    """
    arrays = map_arrays(path, labels.maps, labels.maps[0].shape)
    arrays |= fields.geometry_arrays(labels.geometry)
    if labels.label_names:
        arrays["label_names"] = fields.names_array(labels.label_names)
    write_npz(path, arrays)
