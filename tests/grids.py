"""Grids for tests: all axis orders and flips, slanted and of random spacing; ITK as a reference."""

from itertools import permutations, product
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medsam2_ft.types import Geometry

sitk: Any = SimpleITK  # its type information is partial

ORIENTATIONS = [
    (order, signs) for order in permutations(range(3)) for signs in product((1.0, -1.0), repeat=3)
]


def oriented(
    order: tuple[int, ...],
    signs: tuple[float, ...],
    rng: np.random.Generator,
    slant_degrees: float = 20.0,
) -> Geometry:
    """A grid whose axes follow a permutation of the world's, turned by at most the slant."""
    axes = np.eye(3)[:, order] * signs
    rotation = Rotation.from_rotvec(rng.uniform(-1, 1, 3) * slant_degrees / 2, degrees=True)
    z, y, x = rng.uniform(0.4, 6.0, 3)
    a, b, c = rng.uniform(-200, 200, 3)
    direction = rotation.as_matrix() @ axes
    return Geometry((z, y, x), (a, b, c), tuple(float(v) for v in direction.ravel()))


def affine_of(geometry: Geometry) -> NDArray[np.float64]:
    """NIfTI's affine (x, y, z indices to RAS)."""
    affine = np.eye(4)
    axes = np.array(geometry.direction).reshape(3, 3)
    affine[:3, :3] = axes * np.array(geometry.spacing_mm[::-1])
    affine[:3, 3] = geometry.origin_mm
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def itk_image(array: NDArray[np.uint8], geometry: Geometry) -> Any:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image


def resampled_by_itk(
    array: NDArray[np.uint8], geometry: Geometry, like: Geometry, shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    reference = itk_image(np.zeros(shape, np.uint8), like)
    result = sitk.Resample(
        itk_image(array, geometry), reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0
    )
    return np.asarray(sitk.GetArrayFromImage(result))
