"""Whether an image and its labels lie on the same grid."""

from itertools import product

import numpy as np
from jaxtyping import Float64

from medsam2_ft.errors import UserError
from medsam2_ft.types import Geometry, LabelVolume, Volume

TOLERANCE_VOXELS = 0.1
"""How far a corner of the label grid may lie from the image's, in units of the smallest spacing.

Headers round (float32, or a NIfTI's quaternion against its matrix) by thousandths of a voxel; a
real shift, a flip or another spacing moves a corner by a voxel or more.
"""


def check_same_grid(
    image: Volume, labels: LabelVolume, image_file: str, label_file: str, *, world: bool = True
) -> None:
    """Makes sure that labels lie on the grid of the image.

    Args:
        image: The image.
        labels: Its labels.
        image_file: Name for the message.
        label_file: Name for the message.
        world: Compare positions too; False compares shapes alone, for a file that has no geometry.

    Raises:
        UserError: Another shape, or a corner voxel further off than ``TOLERANCE_VOXELS``. The
            labels are never resampled silently.
    """
    shape = image.array.shape[:3]
    for label_map in labels.maps:
        if label_map.shape != shape:
            raise UserError(
                f"{label_file}: shape {label_map.shape} (z, y, x) is not that of {image_file}, "
                f"{shape}; resample the labels to the image's grid (nearest neighbour)"
            )
    if not world:
        return
    size = (shape[0], shape[1], shape[2])
    shift = _corners(labels.geometry, size) - _corners(image.geometry, size)
    offset = float(np.linalg.norm(shift, axis=1).max())
    if offset > TOLERANCE_VOXELS * min(image.geometry.spacing_mm):
        raise UserError(
            f"{label_file}: lies elsewhere than {image_file}, by up to {offset:.3g} mm: "
            f"{_describe(labels.geometry)} against {_describe(image.geometry)}; resample the "
            "labels to the image's grid (nearest neighbour), or correct the header"
        )


def _corners(geometry: Geometry, shape_zyx: tuple[int, int, int]) -> Float64[np.ndarray, "8 3"]:
    """LPS positions (x, y, z) in mm of the eight corner voxels' centres."""
    last = [(0, n - 1) for n in shape_zyx[::-1]]
    indices = np.array(list(product(*last)), np.float64)
    scaled = indices * np.array(geometry.spacing_mm[::-1])
    axes = np.array(geometry.direction, np.float64).reshape(3, 3)
    return np.asarray(scaled @ axes.T + np.array(geometry.origin_mm), np.float64)


def _describe(geometry: Geometry) -> str:
    spacing, origin, direction = (
        " ".join(f"{value:.4g}" for value in values)
        for values in (geometry.spacing_mm, geometry.origin_mm, geometry.direction)
    )
    return f"spacing z y x {spacing}, origin x y z {origin}, direction {direction}"
