"""A generated set of what a hospital may have: volumes and videos, images, gray and colour."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from synthetic import write_npz


def cells(
    hw: tuple[int, int], count: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """A gray image of ``count`` bright discs on a grid, each an instance of its own."""
    rng = np.random.default_rng(seed)
    columns = int(np.ceil(np.sqrt(count)))
    image = rng.integers(0, 60, hw).astype(np.uint8)
    labels = np.zeros(hw, np.uint16)
    rows, cols = np.ogrid[: hw[0], : hw[1]]
    for i in range(count):
        y = (i // columns + 0.5) * hw[0] / columns
        x = (i % columns + 0.5) * hw[1] / columns
        disc = (rows - y) ** 2 + (cols - x) ** 2 <= (0.35 * hw[0] / columns) ** 2
        labels[disc], image[disc] = 3 * i + 1, 120 + i % 100
    return image, labels


def write_mixed_set(folder: Path) -> list[Path]:
    """Writes two data sets with train and val and returns their folders.

    ``scans``: CT volumes with a region and a label without a name, PET of 29 x 30 pixels.
    ``pictures``: endoscopy videos in colour, dermoscopy in colour, microscopy with 100 instances
    whose ids go beyond 255, OCT of 1024 x 200, fundus of 768 x 1024; some names are those of scans.
    """
    scans, pictures = folder / "scans", folder / "pictures"
    for number, split in enumerate(("train", "val")):
        seed = 10 * number
        regions = {"regions": json.dumps({"both": [1, 2]}), "label_names": json.dumps({1: "liver"})}
        write_npz(scans / split / "a.npz", (6, 48, 56), (1, 2), modality="CT", seed=seed, **regions)
        write_npz(scans / split / "b.npz", (5, 29, 30), (1,), modality="PET", seed=seed + 1)
        write_npz(
            pictures / split / "a.npz",
            (7, 40, 64),
            (3,),
            colour=True,
            modality="endoscopy",
            seed=seed + 2,
            video=np.array(True),
        )
        pictured: dict[str, tuple[str, tuple[int, int], bool]] = {
            "skin": ("dermoscopy", (90, 70), True),
            "retina": ("OCT", (200, 1024), False),
            "eye": ("fundus", (768, 1024), True),
        }
        for name, (modality, hw, colour) in pictured.items():
            options: dict[str, Any] = {"colour": colour, "modality": modality, "seed": seed + 3}
            write_npz(pictures / split / f"{name}.npz", (1, *hw), (1,), **options)
        image, labels = cells((220, 240), 100, seed)
        np.savez(
            pictures / split / "cells.npz", imgs=image, gts=labels, modality=np.array("microscopy")
        )
    return [scans, pictures]
