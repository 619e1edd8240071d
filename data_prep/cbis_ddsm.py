"""CBIS-DDSM: mammograms and masks as DICOM, in folders that are named after each other."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medsam2_ft.io import read_volume

_FINDING = re.compile(
    r"(?P<case>(?:Mass|Calc)-\w+_P_\d+_(?:LEFT|RIGHT)_(?:CC|MLO))_(?P<number>\d+)"
)


def inputs(source: Path, work: Path) -> list[dict[str, Any]]:
    """Takes the mask of every finding, of which the size tells it from the crop beside it.

    Args:
        source: Folder with ``Mass-Training_P_00001_LEFT_CC`` and ``..._1``, at any depth.
        work: Folder for the masks as PNG.

    Returns:
        One entry of options; the findings of a mammogram are objects of their own.

    Raises:
        UserError: A file cannot be read.
    """
    incomplete = set()
    for folder in sorted(path for path in source.glob("**/*-*_P_*") if path.is_dir()):
        match = _FINDING.fullmatch(folder.name)
        if match is not None:
            mask = _mask(folder, folder.with_name(match["case"]))
            if mask is None:
                incomplete.add(match["case"])
                continue
            target = work / match["case"]
            target.mkdir(exist_ok=True)
            Image.fromarray(mask).save(target / f"{int(match['number']):03d}.png")
    for case in sorted(incomplete):
        # a mammogram of which one finding is missing would teach that finding as background
        shutil.rmtree(work / case, ignore_errors=True)
        print(f"{case}: left out, for a finding has no mask of the mammogram's size")
    return [
        {
            "labels": work,
            "image_glob": "**/{case:*_P_*_[CM]*[CO]}/**/*.dcm",
            "label_glob": "{case}/{object}.png",
            "label_rules": {"values": {"parts": "objects"}},
        }
    ]


def _mask(folder: Path, mammogram: Path) -> NDArray[np.uint8] | None:
    """The two-valued image of ``folder`` that has the size of the mammogram, as 0 and 255."""
    images = sorted(mammogram.glob("**/*.dcm"))
    if not images:
        return None
    shape = read_volume(images[0]).array.shape
    for path in sorted(folder.glob("**/*.dcm")):
        array = read_volume(path).array
        if array.shape == shape and len(np.unique(array)) == 2:
            mask: NDArray[np.uint8] = np.where(array[0] > array.min(), 255, 0).astype(np.uint8)
            return mask
    return None
