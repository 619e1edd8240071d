"""Duke OCT of diabetic macular edema: volumes and fluid masks in MATLAB files."""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from medsam2_ft.errors import UserError


def inputs(source: Path, work: Path) -> list[dict[str, Any]]:
    """Takes the annotated B-scans, each a picture of its own.

    Args:
        source: Folder with ``Subject_01.mat`` ..., at any depth.
        work: Folder for npz files.

    Returns:
        One entry of options; a subject stays in one split.

    Raises:
        UserError: A file cannot be read or lacks the arrays.
    """
    for path in sorted(source.glob("**/Subject_*.mat")):
        try:
            content = scipy.io.loadmat(path, variable_names=["images", "manualFluid1"])
            images, fluid = content["images"], content["manualFluid1"]
        except (OSError, ValueError, NotImplementedError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); download it again") from error
        for z in range(images.shape[2]):
            labels = (np.nan_to_num(fluid[:, :, z]) > 0).astype(np.uint8)
            if labels.any():
                np.savez_compressed(
                    work / f"{path.stem}_{z + 1:02d}.npz",
                    imgs=np.rint(images[:, :, z]).astype(np.uint8),
                    gts=labels,
                )
    return [
        {
            "images": work,
            "labels": work,
            "image_glob": "{subject}_{scan:[0-9][0-9]}.npz",
            "group": r"(Subject_\d+)",
            "label_rules": {"names": {1: "fluid"}},
        }
    ]
