"""Segmentations as files: the suffix decides the format."""

from collections.abc import Iterable
from pathlib import Path

from medsam2_ft.errors import UserError
from medsam2_ft.io import WRITABLE_LABEL_SUFFIXES, file_suffix, write_labels
from medsam2_ft.overlays import PALETTE
from medsam2_ft.segmenting.items import Image, Item, dicom_files, may_be_dicom
from medsam2_ft.types import LabelVolume

SEG_SUFFIX = ".dcm"
OUT_SUFFIXES = (*WRITABLE_LABEL_SUFFIXES, SEG_SUFFIX)
_OVERLAPS = (".seg.nrrd", ".npz", SEG_SUFFIX)
OVERLAY_SUFFIXES = (".png", ".mp4")


def is_file_name(path: Path) -> bool:
    """Whether ``--out`` names a file and no folder.

    Raises:
        UserError: It has a suffix that is no format.
    """
    suffix = file_suffix(path)
    if path.is_dir() or (not suffix and not path.exists()):
        return False
    if suffix not in OUT_SUFFIXES:
        raise UserError(
            f"{path}: {suffix or 'no suffix'} is no format of segmentations; use "
            f"{' '.join(OUT_SUFFIXES)}, or a folder without a dot in its name"
        )
    return True


def check_format(suffix: str, *, keep_overlaps: bool) -> None:
    """Refuses formats that cannot hold what is asked for, before any work is done.

    Raises:
        UserError: See above; or highdicom is missing.
    """
    if suffix not in OUT_SUFFIXES:
        raise UserError(f"--format {suffix.lstrip('.')}: use one of {' '.join(OUT_SUFFIXES)}")
    if keep_overlaps and suffix not in _OVERLAPS:
        raise UserError(
            f"{suffix} holds one label for each voxel; --overlap keep needs {' '.join(_OVERLAPS)}"
        )
    if suffix == SEG_SUFFIX:
        from medsam2_ft.io.dicom.write_seg import require_highdicom

        require_highdicom()


def check_target(path: Path) -> None:
    """Refuses a target whose folder is not there, before any work is done.

    Raises:
        UserError: See above.
    """
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")


def check_not_input(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuses to replace what is read.

    Raises:
        UserError: A target is one of the inputs.
    """
    read = {path.resolve() for path in inputs}
    for target in targets:
        if target.resolve() in read:
            raise UserError(f"{target}: is read and would be replaced; write to another place")


def check_overlay(path: Path) -> None:
    """Refuses overlays of another format.

    Raises:
        UserError: See above.
    """
    if file_suffix(path) not in OVERLAY_SUFFIXES:
        raise UserError(f"--overlay {path}: overlays are .png or .mp4")


def check_fits(path: Path, item: Item, image: Image) -> None:
    """Refuses an image that the target's format cannot hold, before it is segmented.

    Raises:
        UserError: See above.
    """
    suffix = file_suffix(path)
    if suffix == ".png" and image.shape_zyx[0] > 1:
        raise UserError(
            f"{path}: PNG holds one slice and {item.source.path} has {image.shape_zyx[0]}; choose "
            ".nii.gz, .seg.nrrd or .npz"
        )
    if suffix == SEG_SUFFIX and not may_be_dicom(item.source):
        with dicom_files(item.source):  # says why not
            pass


def write_segmentation(path: Path, labels: LabelVolume, item: Item, model: str) -> None:
    """Writes labels, atomically.

    Args:
        path: Target; its suffix decides the format.
        labels: On the grid of the image.
        item: The image's files, to which DICOM SEG refers.
        model: Name of the model.

    Raises:
        UserError: The format cannot hold the labels, or the file cannot be written.
    """
    if file_suffix(path) != SEG_SUFFIX:
        write_labels(path, labels)
        return
    from medsam2_ft.io.dicom.write_seg import Author, write_dicom_seg

    with dicom_files(item.source) as files:
        write_dicom_seg(path, labels, files, Author(model, PALETTE))
