"""Volumes and label volumes on disk; the suffix decides the format.

Images: ``.nii .nii.gz .nrrd .nhdr .mha .mhd .npz``. Labels: the same and ``.seg.nrrd``. Cases, the
npz files that training reads, are in ``medsam2_ft.io.npz``.
"""

from pathlib import Path

import numpy as np

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import file_stem, file_suffix
from medsam2_ft.io.checks import (
    as_label_map,
    check_disjoint_ids,
    check_geometry,
    check_image_shape,
    finite_range,
)
from medsam2_ft.io.npz import read_case, write_case
from medsam2_ft.io.npz_labels import read_lone_labels, write_lone_labels
from medsam2_ft.io.npz_zip import open_npz
from medsam2_ft.types import Case, LabelVolume, Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES, ".npz")
LABEL_SUFFIXES = (*VOLUME_SUFFIXES, ".seg.nrrd")

__all__ = [
    "LABEL_SUFFIXES",
    "VOLUME_SUFFIXES",
    "file_stem",
    "file_suffix",
    "read_labels",
    "read_volume",
    "write_labels",
    "write_volume",
]


def read_volume(path: Path) -> Volume:
    """Reads an image with its geometry.

    Returns:
        The values as stored (scaled where the header says so), ``(z, y, x)`` or, for colour,
        ``(z, y, x, 3)`` uint8; a 2D image has one slice. All values are finite.

    Raises:
        UserError: Missing, damaged or truncated file, unknown suffix, 4-D volume, NaN, invalid
            geometry, or more values than ``MEDSAM2FT_MAX_VOXELS`` allows.
    """
    path = Path(path)
    suffix = _known_suffix(path, VOLUME_SUFFIXES, "an image")
    if suffix == ".npz":
        case = read_case(path)
        return Volume(case.image, case.geometry)
    volume = _read_raw(path, suffix)
    check_image_shape(str(path), volume.array.shape)
    finite_range(str(path), volume.array)
    return volume


def read_labels(path: Path) -> LabelVolume:
    """Reads a segmentation with its geometry.

    Returns:
        uint8 or uint16 maps; more than one only from ``.seg.nrrd`` and npz files. Names are known
        from the same two.

    Raises:
        UserError: As ``read_volume``; or values that are negative, fractional, above 65535, or
            an image in colour.
    """
    path = Path(path)
    suffix = _known_suffix(path, LABEL_SUFFIXES, "a label volume")
    if suffix == ".npz":
        return _read_npz_labels(path)
    if suffix == ".seg.nrrd":
        from medsam2_ft.io.seg_nrrd import read_seg_nrrd

        return read_seg_nrrd(path)
    volume = _read_raw(path, suffix)
    if volume.array.ndim != 3:
        raise UserError(f"{path}: is a colour image; labels are one integer for each voxel")
    check_image_shape(str(path), volume.array.shape)
    return LabelVolume((as_label_map(str(path), volume.array),), {}, volume.geometry)


def _read_npz_labels(path: Path) -> LabelVolume:
    with open_npz(path) as reader:
        is_case = "imgs" in reader
    if not is_case:
        return read_lone_labels(path)
    case = read_case(path)
    if not case.label_maps:
        raise UserError(f"{path}: the case has no labels; add gts or a parallel gts folder")
    return LabelVolume(case.label_maps, case.label_names, case.geometry)


def _read_raw(path: Path, suffix: str) -> Volume:
    if suffix in NIFTI_SUFFIXES:
        from medsam2_ft.io.nifti import read_nifti

        return read_nifti(path)
    from medsam2_ft.io.itk import read_itk

    return read_itk(path)


def write_volume(path: Path, volume: Volume) -> None:
    """Writes an image with its geometry, compressed, atomically.

    npz takes uint8 only, since a case holds 0-255.

    Raises:
        UserError: Unknown suffix, an array that is no volume, or the file cannot be written.
    """
    path = Path(path)
    suffix = _known_suffix(path, VOLUME_SUFFIXES, "an image")
    _check_writable(path, volume)
    if suffix == ".npz":
        if volume.array.dtype != np.uint8:
            raise UserError(
                f"{path}: an npz case holds uint8, not {volume.array.dtype}; apply an intensity "
                "rule first (medsam2_ft.intensity.apply_rule) or choose .nii.gz"
            )
        write_case(path, Case(path.stem, volume.array, geometry=volume.geometry))
        return
    from medsam2_ft.io.itk import write_itk

    write_itk(path, volume)


def write_labels(path: Path, labels: LabelVolume) -> None:
    """Writes a segmentation with its geometry, compressed, atomically.

    ``.seg.nrrd`` and npz keep names and overlapping maps; the other formats hold one map without
    names. An npz file holds the labels alone, as in a ``gts`` folder.

    Raises:
        UserError: Unknown suffix, several maps in a format that holds one, invalid labels, or
            the file cannot be written.
    """
    path = Path(path)
    suffix = _known_suffix(path, LABEL_SUFFIXES, "a label volume")
    if not labels.maps:
        raise UserError(f"{path}: there is no label map to write; give at least one")
    if suffix == ".npz":
        write_lone_labels(path, labels)
        return
    if suffix == ".seg.nrrd":
        from medsam2_ft.io.seg_nrrd import write_seg_nrrd

        write_seg_nrrd(path, labels)
        return
    if len(labels.maps) > 1:
        raise UserError(
            f"{path}: {suffix} holds one label map and these are {len(labels.maps)}, which "
            "overlap; choose .seg.nrrd or .npz"
        )
    check_disjoint_ids(str(path), labels.maps)
    write_volume(path, Volume(as_label_map(str(path), labels.maps[0]), labels.geometry))


def _known_suffix(path: Path, known: tuple[str, ...], what: str) -> str:
    suffix = file_suffix(path)
    if suffix == ".seg.nrrd" and suffix not in known:
        raise UserError(f"{path}: is a segmentation, not an image; give the image it belongs to")
    if suffix not in known:
        raise UserError(f"{path}: {suffix or 'no suffix'} is not {what}; use {' '.join(known)}")
    return suffix


def _check_writable(path: Path, volume: Volume) -> None:
    check_image_shape(str(path), volume.array.shape)
    geometry = volume.geometry
    check_geometry(str(path), geometry.spacing_mm[::-1], geometry.origin_mm, geometry.direction)
