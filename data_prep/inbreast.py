"""INbreast: contours in property lists (OsiriX) beside DICOM mammograms."""

import plistlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
from PIL import Image, ImageDraw

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_volume

_BROKEN = (
    OSError,
    ExpatError,
    plistlib.InvalidFileException,
    KeyError,
    TypeError,
    ValueError,
)


def inputs(source: Path, work: Path) -> list[dict[str, Any]]:
    """Draws the contours of every mammogram into masks, one for each finding.

    Args:
        source: Folder with ``AllDICOMs`` and ``AllXML``, at any depth.
        work: Folder for the masks.

    Returns:
        One entry of options; the patient is the second part of a file's name.

    Raises:
        UserError: A contour file or its mammogram cannot be read.
    """
    contours = {path.stem: path for path in sorted(source.glob("**/AllXML/*.xml"))}
    points = 0
    for image in sorted(source.glob("**/AllDICOMs/*.dcm")):
        case = image.stem.split("_")[0]
        if case in contours:
            points += _draw(contours[case], read_volume(image).array.shape[1:3], work / case)
    if points:
        print(f"{points} findings of one or two points have no area and are left out")
    return [
        {
            "labels": work,
            "image_glob": "**/AllDICOMs/{case}_{patient}_MG_{view}.dcm",
            "label_glob": "{case}/{object}.png",
            "label_rules": {"values": {"parts": "objects"}},
        }
    ]


def _draw(contours: Path, shape_yx: tuple[int, ...], folder: Path) -> int:
    """Writes one 0-255 PNG for each contour with an area; returns how many have none."""
    outlines = list(_outlines(contours))
    areas = [points for points in outlines if len(points) >= 3]
    for number, points in enumerate(areas, start=1):
        picture = Image.new("L", (shape_yx[1], shape_yx[0]))
        ImageDraw.Draw(picture).polygon(points, fill=255, outline=255)
        if np.asarray(picture).any():
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{number:04d}.png")
    return len(outlines) - len(areas)


def _outlines(path: Path) -> Iterator[list[tuple[float, float]]]:
    try:
        content = plistlib.loads(path.read_bytes(), fmt=plistlib.FMT_XML)
        for image in content["Images"]:
            for region in image["ROIs"]:
                yield [_point(text) for text in region["Point_px"]]
    except _BROKEN as error:
        raise UserError(
            f"{path}: is no contour file of INbreast ({type(error).__name__}); unpack AllXML again"
        ) from error


def _point(text: str) -> tuple[float, float]:
    """Reads ``(x, y)`` in pixels."""
    x, y = text.strip("() ").split(",")
    return float(x), float(y)
