"""Between VTK's images and matrices and numpy; knows nothing of nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import vtk_to_numpy

from .masks import SceneError
from .wire import DTYPES


def array_of(matrix: Any) -> NDArray[np.float64]:
    """Copies a vtkMatrix4x4."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def matrix_of(array: NDArray[np.float64]) -> Any:
    """Makes a vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, np.float64).ravel().tolist())
    return matrix


def voxels_of(image: Any) -> NDArray[Any]:
    """Returns voxels of an image, not copied: ``(k, j, i)``, components last."""
    sides = image.GetDimensions()[::-1]
    array: NDArray[Any] = vtk_to_numpy(image.GetPointData().GetScalars())
    components = image.GetNumberOfScalarComponents()
    return array.reshape(sides if components == 1 else (*sides, components))


def is_colour(array: NDArray[Any]) -> bool:
    """Whether components are colours and not frames."""
    return array.ndim == 4 and array.shape[3] in (3, 4) and array.dtype == np.uint8


def sendable(array: NDArray[Any]) -> NDArray[Any]:
    """Returns a copy in a type that the server knows."""
    if array.dtype.name in DTYPES:
        return array.copy()
    limits = np.iinfo(np.int32)
    if array.dtype.kind in "iu" and limits.min <= array.min() and array.max() <= limits.max:
        return array.astype(np.int32)
    return array.astype(np.float64)


def oriented_image(
    mask: NDArray[np.bool_], value: int, offset: Sequence[int], matrix: NDArray[np.float64]
) -> Any:
    """Makes an image of 0 and a value that covers a box of a grid.

    Raises:
        SceneError: The grid is sheared, by a transform between volume and segmentation.
    """
    directions = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-3):
        raise SceneError(
            "Volume and segmentation lie under transforms that shear: put both under the same."
        )
    image = slicer.vtkOrientedImageData()
    extent: list[int] = []
    for first, side in list(zip(offset, mask.shape))[::-1]:
        extent += [int(first), int(first + side) - 1]
    image.SetExtent(extent)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR if value < 256 else vtk.VTK_SHORT, 1)
    scalars = vtk_to_numpy(image.GetPointData().GetScalars())
    scalars[:] = mask.ravel()
    scalars *= value
    image.SetImageToWorldMatrix(matrix_of(matrix))
    return image
