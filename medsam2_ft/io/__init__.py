"""Volumes, videos, pictures and their labels on disk; the suffix decides the format.

Images: NIfTI, NRRD, MetaImage, DICOM (a folder, a file, a zip archive), npz, HDF5, pictures and
videos. Labels: the same without videos, Slicer's ``.seg.nrrd``, DICOM SEG and RTSTRUCT. Cases, the
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
from medsam2_ft.io.label_values import AUTO, LabelValues
from medsam2_ft.io.npz import read_case, write_case
from medsam2_ft.io.npz_labels import read_lone_labels, write_lone_labels
from medsam2_ft.io.npz_zip import open_npz
from medsam2_ft.io.sources import Source, as_source
from medsam2_ft.types import Case, Geometry, LabelVolume, Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
WRITABLE_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES, ".npz")
WRITABLE_LABEL_SUFFIXES = (*WRITABLE_SUFFIXES, ".seg.nrrd", ".png")
HDF5_SUFFIXES = (".h5", ".hdf5")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
VIDEO_SUFFIXES = (".mp4", ".avi", ".webm", ".mov", ".mkv")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
ARCHIVE_SUFFIXES = (".zip",)
_SHARED_SUFFIXES = (
    *WRITABLE_SUFFIXES,
    *HDF5_SUFFIXES,
    *PICTURE_SUFFIXES,
    *DICOM_SUFFIXES,
)
VOLUME_SUFFIXES = (*_SHARED_SUFFIXES, *ARCHIVE_SUFFIXES, *VIDEO_SUFFIXES)
LABEL_SUFFIXES = (*_SHARED_SUFFIXES, ".seg.nrrd")

__all__ = [
    "AUTO",
    "LABEL_SUFFIXES",
    "VOLUME_SUFFIXES",
    "LabelValues",
    "Source",
    "file_stem",
    "file_suffix",
    "read_labels",
    "read_volume",
    "write_labels",
    "write_volume",
]


def read_volume(
    source: Path | str | Source, key: str | None = None, channel: int | None = None
) -> Volume:
    """Reads an image with its geometry.

    Args:
        source: A file, a folder with one DICOM series or one video as frames, or the files that
            make one image.
        key: Path of the image inside an HDF5 file, if it is not found by its name.
        channel: Which channel or time point of a 4-D volume, from 0; None where there is one.

    Returns:
        The values as stored (scaled where the header says so), ``(z, y, x)`` or, for colour,
        ``(z, y, x, 3)`` uint8; a 2D image has one slice. All values are finite.

    Raises:
        UserError: Missing, damaged or truncated file, unknown suffix, 4-D volume, NaN, invalid
            geometry, or more values than ``MEDSAM2FT_MAX_VOXELS`` allows.
    """
    source = as_source(source)
    if channel is None:
        volume = _read_any_volume(source, key)
    else:
        from medsam2_ft.io.channels import read_channel

        volume = read_channel(source.path, channel)
    check_image_shape(str(source.path), volume.array.shape)
    finite_range(str(source.path), volume.array)
    return volume


def _read_any_volume(source: Source, key: str | None) -> Volume:
    path = source.path
    if source.kind == "parts":
        raise UserError(f"{path}: label files are no image; give the image")
    if source.kind == "frames":
        from medsam2_ft.io.frames import read_frames

        return read_frames(source.all_files)
    if source.kind == "series":
        from medsam2_ft.io.dicom import read_series

        return read_series(source.all_files)
    if path.is_dir():
        return _read_folder(path)
    suffix = _suffix_or_dicom(path, VOLUME_SUFFIXES, "an image")
    if suffix == ".npz":
        case = read_case(path)
        known = case.geometry != Geometry()
        return Volume(case.image, case.geometry, known, case.is_video, case.modality)
    return _read_file(path, suffix, key)


def _read_folder(path: Path) -> Volume:
    """A folder holds one DICOM series, or one video as frames."""
    from medsam2_ft.io.frames import find_frames, read_frames

    frames = find_frames(path)
    if frames:
        return read_frames(frames)
    from medsam2_ft.io.dicom import read_folder

    return read_folder(path)


def _read_file(path: Path, suffix: str, key: str | None) -> Volume:
    if suffix in NIFTI_SUFFIXES:
        from medsam2_ft.io.nifti import read_nifti

        return read_nifti(path)
    if suffix in ITK_SUFFIXES:
        from medsam2_ft.io.itk import read_itk

        return read_itk(path)
    if suffix in HDF5_SUFFIXES:
        from medsam2_ft.io.hdf5 import read_hdf5

        return read_hdf5(path, key)
    if suffix in PICTURE_SUFFIXES:
        from medsam2_ft.io.pictures import read_picture

        return read_picture(path)
    if suffix in VIDEO_SUFFIXES:
        from medsam2_ft.io.video import read_video

        return read_video(path)
    if suffix in ARCHIVE_SUFFIXES:
        from medsam2_ft.io.archive import unpacked

        with unpacked(path) as folder:
            return _read_folder(folder)
    from medsam2_ft.io.dicom import read_series

    return read_series((path,))


def read_labels(
    source: Path | str | Source, values: LabelValues = AUTO, like: Volume | None = None
) -> LabelVolume:
    """Reads a segmentation with its geometry.

    Args:
        source: A file, or the files that make one segmentation.
        values: How values become label ids.
        like: The image that the labels belong to. DICOM SEG and RTSTRUCT, which need not have a
            grid of their own, are then placed on its grid by their coordinates.

    Returns:
        uint8 or uint16 maps; more than one where labels overlap. Names are known from formats
        that hold them.

    Raises:
        UserError: As ``read_volume``; or values that are negative, fractional, above 65535, or
            that could mean several things.
    """
    source = as_source(source)
    path = source.path
    if source.kind != "file":
        from medsam2_ft.io.masks import read_frame_masks, read_parts

        if source.kind == "parts":
            return read_parts(source.all_files, values, source.names)
        return read_frame_masks(source.all_files, values)
    suffix = _suffix_or_dicom(path, LABEL_SUFFIXES, "a label volume")
    if suffix == ".npz":
        return _read_npz_labels(path)
    if suffix == ".seg.nrrd":
        from medsam2_ft.io.seg_nrrd import read_seg_nrrd

        return read_seg_nrrd(path)
    if suffix in DICOM_SUFFIXES:
        from medsam2_ft.io.dicom import read_dicom_labels

        return read_dicom_labels(path, like)
    from medsam2_ft.io.masks import read_mask_file

    return read_mask_file(path, values)


def _read_npz_labels(path: Path) -> LabelVolume:
    with open_npz(path) as reader:
        is_case = "imgs" in reader
    if not is_case:
        return read_lone_labels(path)
    case = read_case(path)
    if not case.label_maps:
        raise UserError(f"{path}: the case has no labels; add gts or a parallel gts folder")
    known = case.geometry != Geometry()
    return LabelVolume(case.label_maps, case.label_names, case.geometry, known)


def write_volume(path: Path, volume: Volume) -> None:
    """Writes an image with its geometry, compressed, atomically.

    npz takes uint8 only, since a case holds 0-255.

    Raises:
        UserError: Unknown suffix, an array that is no volume, or the file cannot be written.
    """
    path = Path(path)
    suffix = _known_suffix(path, WRITABLE_SUFFIXES, "an image")
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
    names, PNG one slice. An npz file holds the labels alone, as in a ``gts`` folder.

    Raises:
        UserError: Unknown suffix, several maps in a format that holds one, invalid labels, or
            the file cannot be written.
    """
    path = Path(path)
    suffix = _known_suffix(path, WRITABLE_LABEL_SUFFIXES, "a label volume")
    if not labels.maps:
        raise UserError(f"{path}: there is no label map to write; give at least one")
    if suffix == ".npz":
        write_lone_labels(path, labels)
        return
    if suffix == ".seg.nrrd":
        from medsam2_ft.io.seg_nrrd import write_seg_nrrd

        write_seg_nrrd(path, labels)
        return
    if suffix == ".png":
        from medsam2_ft.io.label_png import write_label_png

        write_label_png(path, labels)
        return
    if len(labels.maps) > 1:
        raise UserError(
            f"{path}: {suffix} holds one label map and these are {len(labels.maps)}, which "
            "overlap; choose .seg.nrrd or .npz"
        )
    check_disjoint_ids(str(path), labels.maps)
    write_volume(path, Volume(as_label_map(str(path), labels.maps[0]), labels.geometry))


def _suffix_or_dicom(path: Path, known: tuple[str, ...], what: str) -> str:
    """The suffix; that of DICOM for a file that is DICOM by its first bytes, whatever its name."""
    suffix = file_suffix(path)
    if suffix not in (*known, ".seg.nrrd"):
        from medsam2_ft.io.signatures import is_dicom

        if is_dicom(path):
            return DICOM_SUFFIXES[0]
    return _known_suffix(path, known, what)


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
