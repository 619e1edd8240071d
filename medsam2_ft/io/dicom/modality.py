"""Names of modalities, and which objects are images or labels."""

from typing import Literal

SEGMENTATIONS = (
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
)
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_NO_IMAGES = ("RTDOSE", "RTPLAN", "SEG", "RTSTRUCT", "SR", "PR", "KO", "REG", "RWV", "FID")
_MODALITIES = {
    "CT": "CT",
    "MR": "MR",
    "PT": "PET",
    "US": "ultrasound",
    "IVUS": "ultrasound",
    "DX": "xray",
    "CR": "xray",
    "RG": "xray",
    "PX": "xray",
    "IO": "xray",
    "RF": "xray",
    "XA": "xray",
    "MG": "mammography",
    "OP": "fundus",
    "OPT": "OCT",
    "OCT": "OCT",
    "IVOCT": "OCT",
    "ES": "endoscopy",
    "DMS": "dermoscopy",  # not XC: an external camera shows anything
    "SM": "microscopy",
    "GM": "microscopy",
}


def our_modality(code: str) -> str | None:
    """Returns the name in ``types.MODALITIES`` of a DICOM modality, None where there is none."""
    return _MODALITIES.get(code)


def kind_of(sop_class: str, code: str, has_rows: bool) -> Literal["image", "labels"] | None:
    """Returns whether an object is an image, labels (SEG, RTSTRUCT), or of no use here (None)."""
    if sop_class in (*SEGMENTATIONS, RTSTRUCT):
        return "labels"
    return "image" if has_rows and code not in _NO_IMAGES else None
