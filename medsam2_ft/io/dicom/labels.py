"""Reads DICOM labels, whichever of the two kinds they are."""

from pathlib import Path

from medsam2_ft.errors import UserError
from medsam2_ft.io.dicom.files import damaged_as_user_error, open_dataset, text
from medsam2_ft.io.dicom.modality import RTSTRUCT, SEGMENTATIONS
from medsam2_ft.io.dicom.rtstruct import read_rtstruct
from medsam2_ft.io.dicom.segmentation import read_segmentation
from medsam2_ft.types import LabelVolume, Volume


def read_dicom_labels(path: Path, like: Volume | None) -> LabelVolume:
    """Reads a DICOM SEG or RTSTRUCT.

    Args:
        path: The file.
        like: The image that it belongs to. Contours are drawn on its grid and cannot be read
            without it. A segmentation is put on its grid where the grids agree, and otherwise
            comes on its own grid.

    Raises:
        UserError: Damaged, neither of the two, contours without ``like``, or frames that make no
            grid.
    """
    path = Path(path)
    dataset = open_dataset(path, ["SOPClassUID", "Modality"])
    with damaged_as_user_error(path, "header"):
        sop_class, code = text(dataset, "SOPClassUID"), text(dataset, "Modality")
    if sop_class in SEGMENTATIONS:
        return read_segmentation(path, like)
    if sop_class != RTSTRUCT:
        raise UserError(
            f"{path}: is neither a DICOM segmentation nor a structure set but "
            f"{code[:16] or 'something else'}; give the SEG or RTSTRUCT file"
        )
    if like is None:
        raise UserError(
            f"{path}: contours have no grid of their own; give the image that they belong to"
        )
    return read_rtstruct(path, like)
