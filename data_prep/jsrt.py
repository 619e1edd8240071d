"""JSRT: raw 12-bit X-rays of 2048 x 2048 and masks of half the size (SCR)."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medsam2_ft.errors import UserError

SIDE = 2048
_MAXIMUM = 4095


def inputs(source: Path, work: Path) -> list[dict[str, Any]]:
    """Halves the X-rays to the size of the masks.

    The release stores bright as low (its viewer inverts); air becomes dark here, as on a film.

    Args:
        source: Folder with ``JPCLN001.IMG`` ... and the folders ``fold1`` and ``fold2`` of SCR.
        work: Folder for 16-bit PNG of 1024 x 1024.

    Returns:
        One entry of options.

    Raises:
        UserError: An X-ray has not the size of the release.
    """
    for path in sorted([*source.glob("**/*.IMG"), *source.glob("**/*.img")]):
        raw = np.fromfile(path, ">u2")
        if raw.size != SIDE * SIDE:
            raise UserError(
                f"{path}: holds {raw.size} values, not {SIDE} x {SIDE}; download it again"
            )
        blocks = raw.reshape(SIDE // 2, 2, SIDE // 2, 2).astype(np.uint32)
        halved = np.clip(_MAXIMUM - blocks.mean(axis=(1, 3)), 0, _MAXIMUM)
        Image.fromarray(np.rint(halved).astype(np.uint16)).save(work / f"{path.stem}.png")
    return [
        {
            "images": work,
            "image_glob": "{case}.png",
            "label_glob": "**/fold[12]/masks/{label}/{case}.gif",
            "label_rules": {
                "names": {
                    1: "left lung",
                    2: "right lung",
                    3: "heart",
                    4: "left clavicle",
                    5: "right clavicle",
                }
            },
        }
    ]
