"""Writes the labels of a picture as a picture: gray values are label ids."""

from pathlib import Path

import numpy as np
from PIL import Image

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import atomic_path
from medsam2_ft.io.checks import as_label_map
from medsam2_ft.types import LabelVolume


def write_label_png(path: Path, labels: LabelVolume) -> None:
    """Writes one label map of one slice as gray PNG, 8 bits, for ids above 254 16 bits. Atomic.

    Ids from 1 on look black in a viewer; programs read them. White is no id of 8 bits, for masks
    of 0 and 255 have one object that is simply white.

    Raises:
        UserError: Several slices or maps, invalid labels, or the file cannot be written.
    """
    if len(labels.maps) != 1 or len(labels.maps[0]) != 1:
        raise UserError(
            f"{path}: PNG holds one slice without overlaps, and these are {len(labels.maps[0])} "
            f"slices in {len(labels.maps)} maps; choose .nii.gz, .seg.nrrd or .npz"
        )
    plane = as_label_map(str(path), labels.maps[0])[0]
    small = plane.max(initial=0) < np.iinfo(np.uint8).max
    picture = Image.fromarray(plane.astype(np.uint8 if small else np.uint16))
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
