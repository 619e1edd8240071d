"""World coordinates for the tests of the volume formats."""

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.types import Geometry

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_of(geometry: Geometry) -> NDArray[np.float64]:
    """4x4 matrix from (i, j, k) to LPS mm."""
    affine = np.eye(4)
    columns = np.array(geometry.direction).reshape(3, 3)
    affine[:3, :3] = columns * np.array(geometry.spacing_mm[::-1])
    affine[:3, 3] = geometry.origin_mm
    return affine


def rotation(*degrees: float) -> NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        matrix = matrix @ turn
    return matrix
