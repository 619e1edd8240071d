"""Image and label arrays in HDF5 files."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.checks import check_geometry
from medsam2_ft.io.hdf5_chunks import check_chunks
from medsam2_ft.io.label_values import LabelValues
from medsam2_ft.io.mask_values import StoredMask
from medsam2_ft.io.npz_zip import check_size
from medsam2_ft.io.pixels import check_expansion
from medsam2_ft.types import Geometry, Volume

_IMAGE_KEYS = ("image", "images", "img", "imgs", "data", "volume", "vol", "raw", "x", "ct", "mri")
_LABEL_KEYS = (
    *("label", "labels", "mask", "masks", "gt", "gts", "seg", "segs", "segmentation", "y"),
    *("annotation", "annotations", "ground_truth", "groundtruth", "target", "targets"),
)
_SPACING_MM = {"spacing": 1.0, "spacing_mm": 1.0, "voxel_size": 1.0, "element_size_mm": 1.0}
_SPACING_MM["element_size_um"] = 1e-3  # written by Fiji and ilastik
_NARROW = 4
"""A last axis of at most this many elements is taken for channels, not for a width."""
_MAX_SETS = 10_000
_SHOWN = 8
_DAMAGED = (OSError, RuntimeError, ValueError, TypeError, LookupError, MemoryError, OverflowError)


def read_hdf5(path: Path, key: str | None = None) -> Volume:
    """Reads the image of an HDF5 file.

    Args:
        path: The file.
        key: Path of the data set; None: the one with a usual name (``image``, ``data``, ``raw``,
            ...), in any group, or the only one of the file.

    Returns:
        ``(z, y, x)`` of the stored type or ``(z, y, x, 3)`` uint8; ``(y, x)`` and ``(y, x, 3)``
        uint8 are one slice. With geometry where an attribute gives the spacing in mm, in the
        order of the array's axes.

    Raises:
        UserError: Missing or damaged file, a data set that is missing, ambiguous, in another file
            or beyond the size limit, or a shape that is no image.
    """
    with _opened(Path(path)) as file:
        dataset = _find(Path(path), file, key, _IMAGE_KEYS, _LABEL_KEYS, "image")
        array = _read(Path(path), dataset)
        geometry, notes = _geometry(Path(path), dataset)
    where = f"{path}: {dataset_name(key, dataset)}"
    if array.ndim == 3 and array.shape[-1] == 3 and array.dtype == np.uint8:
        array = array[None]
    elif array.ndim in (3, 4) and array.shape[-1] <= _NARROW and array.shape[-1] != 1:
        if array.ndim == 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
            raise UserError(
                f"{where} has shape {array.shape} and type {array.dtype}: it looks like "
                f"{array.shape[-1]} channels; save the one that is meant, or RGB as uint8"
            )
    elif array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[None]
    return Volume(array, geometry, has_geometry=bool(notes), notes=notes)


def read_hdf5_mask(path: Path, values: LabelValues) -> StoredMask:
    """Reads the labels of an HDF5 file as stored.

    Args:
        path: The file.
        values: ``key`` names the data set; else it is found as by ``read_hdf5``, with the usual
            names of labels. ``form`` channels takes the last axis of three for channels.

    Raises:
        UserError: As ``read_hdf5``; or a last axis that may be channels or a width.
    """
    with _opened(path) as file:
        dataset = _find(path, file, values.key, _LABEL_KEYS, _IMAGE_KEYS, "label")
        array = _read(path, dataset)
        geometry, notes = _geometry(path, dataset)
    where = f"{path}: {dataset_name(values.key, dataset)}"
    if array.ndim == 3 and (values.form == "channels" or 1 < array.shape[-1] <= _NARROW):
        if values.form not in ("channels", "colours"):
            raise UserError(
                f"{where} has shape {array.shape}, of which the last axis looks like channels; "
                "choose form channels, or colours with a legend"
            )
        array = array[None]
    if array.ndim == 2:
        array = array[None]
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4):
        raise UserError(
            f"{where} has shape {array.shape}; save (y, x), (z, y, x) or (z, y, x, channels)"
        )
    axes: Literal["gray", "layers"] = "gray" if array.ndim == 3 else "layers"
    return StoredMask(where, array, axes, geometry=geometry, has_geometry=bool(notes), notes=notes)


def dataset_name(key: str | None, dataset: h5py.Dataset) -> str:
    """Name of a data set for messages."""
    return key or str(dataset.name or "data set").lstrip("/")


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Opens a file; whatever h5py raises while it is open becomes a UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    try:
        with h5py.File(os.fsencode(path), "r") as file:
            yield file
    except UserError:
        raise
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"{path}: cannot be read ({reason}); the file is truncated, damaged or not HDF5: copy "
            "it again"
        ) from error


def _find(
    path: Path,
    file: h5py.File,
    key: str | None,
    wanted: tuple[str, ...],
    other: tuple[str, ...],
    what: str,
) -> h5py.Dataset:
    """The data set of that name; else the one with a usual name; else the only one."""
    found = _datasets(path, file)
    if key is not None:
        name = key.strip("/")
        if name not in found:
            if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
                raise UserError(f"{path}: {key!r} lies in another file; give that file")
            raise UserError(f"{path}: has no data set {key!r}; it holds {_listed(file, found)}")
        return file[name]
    named = [name for name in found if name.rsplit("/", 1)[-1].lower() in wanted]
    if not named and len(found) == 1 and found[0].rsplit("/", 1)[-1].lower() not in other:
        named = found
    if len(named) != 1:
        problem = "no data set with a usual name" if not named else "several that may be the one"
        raise UserError(f"{path}: {what}: {problem}; name one of {_listed(file, found)} as the key")
    return file[named[0]]


def _datasets(path: Path, file: h5py.File) -> list[str]:
    """Paths of all data sets that lie in this file; links to other files are not followed."""
    found: list[str] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(name)
        if len(found) > _MAX_SETS:
            raise UserError(f"{path}: holds more than {_MAX_SETS} data sets; save one case a file")

    file.visititems(visit)
    if not found:
        raise UserError(f"{path}: holds no data set; give the file with the arrays")
    return found


def _listed(file: h5py.File, names: list[str]) -> str:
    shown = ", ".join(f"{name} {file[name].shape}" for name in names[:_SHOWN])
    return shown + (", ..." if len(names) > _SHOWN else "")


def _read(path: Path, dataset: h5py.Dataset) -> NDArray[Any]:
    """Reads a data set whose declared size has been checked."""
    where = f"{path}: {dataset_name(None, dataset)}"
    if dataset.is_virtual or dataset.external:
        raise UserError(f"{where} takes its values from other files; save them in this one")
    if dataset.shape is None or dataset.dtype.kind not in "buif" or 0 in dataset.shape:
        raise UserError(
            f"{where} holds {dataset.dtype} of shape {dataset.shape}; give an array of numbers"
        )
    if not 2 <= len(dataset.shape) <= 4:
        raise UserError(f"{where} has shape {dataset.shape}; 2, 3 or 4 axes are read")
    stored = dataset.id.get_storage_size()
    if not stored:
        raise UserError(f"{where} was never written; make the file again")
    for shape in (dataset.shape, dataset.chunks or ()):  # a chunk may be larger than its data set
        check_size(where, math.prod(shape))
        check_expansion(path, stored, math.prod(shape) * dataset.dtype.itemsize)
    if dataset.chunks:
        check_chunks(where, dataset)
    array = np.asarray(dataset[()])
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _geometry(path: Path, dataset: h5py.Dataset) -> tuple[Geometry, tuple[str, ...]]:
    """The grid of a spacing attribute of the data set, its group or the file; a note on it."""
    for item in (dataset, dataset.parent, dataset.file):
        for name in item.attrs:
            factor = _SPACING_MM.get(name.lower())
            if factor is None or item.attrs.get_id(name).shape not in ((2,), (3,)):
                continue
            spacing = np.asarray(item.attrs[name])
            if spacing.dtype.kind not in "uif":
                continue
            spacing = np.append([1.0], spacing)[-3:] * factor
            geometry = check_geometry(f"{path}: {name}", spacing[::-1])
            shown = " ".join(f"{value:.4g}" for value in geometry.spacing_mm)
            return geometry, (f"spacing z y x {shown} mm is the attribute {name}",)
    return Geometry(), ()
