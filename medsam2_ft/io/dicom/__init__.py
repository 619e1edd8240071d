"""DICOM: image series, multi-frame objects, segmentations (SEG) and contours (RTSTRUCT).

Needs the extra ``dicom``; importing this package without it is a UserError that says so.
"""

from medsam2_ft.io.dicom.labels import read_dicom_labels
from medsam2_ft.io.dicom.scan import Series, read_folder, scan
from medsam2_ft.io.dicom.series import read_series

__all__ = ["Series", "read_dicom_labels", "read_folder", "read_series", "scan"]
