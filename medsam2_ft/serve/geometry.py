"""Between a 4x4 matrix of voxel indices and the project's geometry."""

from collections.abc import Sequence

import numpy as np

from medsam2_ft.io.checks import check_geometry
from medsam2_ft.types import Geometry


def from_matrix(matrix: Sequence[Sequence[float]]) -> Geometry:
    """Reads a matrix that takes (i, j, k, 1) to LPS millimetres.

    Raises:
        UserError: It is no grid: sheared, without volume, or not finite.
    """
    affine = np.asarray(matrix, np.float64)
    with np.errstate(all="ignore"):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        direction = affine[:3, :3] / spacing
    i_mm, j_mm, k_mm = (float(side) for side in spacing)
    origin = (float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3]))
    check_geometry("ijk_to_lps", (i_mm, j_mm, k_mm), origin, tuple(direction.ravel().tolist()))
    return Geometry((k_mm, j_mm, i_mm), origin, tuple(direction.ravel().tolist()))


def to_matrix(geometry: Geometry) -> list[list[float]]:
    """Returns the matrix that takes (i, j, k, 1) to LPS millimetres."""
    affine = np.eye(4)
    direction = np.array(geometry.direction).reshape(3, 3)
    affine[:3, :3] = direction * np.array(geometry.spacing_mm[::-1])
    affine[:3, 3] = geometry.origin_mm
    rows: list[list[float]] = affine.tolist()
    return rows
