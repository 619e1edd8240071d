"""Which way the slices of a volume lie: axes are permuted and flipped, nothing is resampled.

World axes are ITK's: +x is left, +y posterior, +z superior (of the patient).
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.types import Geometry

Slices = Literal["stored", "axial", "coronal", "sagittal", "thickest"]

THICK_RATIO = 1.5
"""Slices along a spacing that another axis exceeds by more than this are worth a note."""

_ROUNDING = 1e-3  # spacings this close are equal: the first axis then counts as the thickest

# World axis (0 = x, 1 = y, 2 = z) and its sign that array axes z, y, x follow. All are
# right-handed, so that the view decides which way the slices of coronal and sagittal run.
_VIEWS: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "axial": ((2, 1), (1, 1), (0, 1)),  # superior, posterior, left
    "coronal": ((1, 1), (2, -1), (0, 1)),  # posterior, inferior, left
    "sagittal": ((0, -1), (2, -1), (1, 1)),  # right, inferior, posterior
}


@dataclass(frozen=True)
class Turn:
    """A permutation of array axes with flips.

    Attributes:
        order: Old array axis (0 = z, 1 = y, 2 = x) of every new one.
        flips: Whether the new axis runs against the old one.
    """

    order: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    def array(self, array: NDArray[Any]) -> NDArray[Any]:
        """Returns ``(z, y, x)`` or ``(z, y, x, 3)`` turned: a view that shares the memory."""
        turned = array.transpose(*self.order, *range(3, array.ndim))
        return turned[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def geometry(self, geometry: Geometry, shape: tuple[int, ...]) -> Geometry:
        """Returns the grid of a turned array.

        Args:
            geometry: The grid before.
            shape: ``(z, y, x)`` before; further axes do not matter.
        """
        if self == Turn():
            return geometry
        axes = np.array(geometry.direction, np.float64).reshape(3, 3)[:, ::-1]  # columns z, y, x
        spacing = np.array(geometry.spacing_mm)
        origin = np.array(geometry.origin_mm)
        for axis, flip in zip(self.order, self.flips, strict=True):
            if flip:
                origin += axes[:, axis] * spacing[axis] * (shape[axis] - 1)
        signs = np.where(self.flips, -1.0, 1.0)
        turned = (axes[:, self.order] * signs)[:, ::-1] + 0.0  # no negative zeros
        z, y, x = (float(value) for value in spacing[list(self.order)])
        return Geometry(
            spacing_mm=(z, y, x),
            origin_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
            direction=tuple(float(value) for value in turned.ravel()),
        )


def turn_for(geometry: Geometry, slices: Slices) -> Turn:
    """Returns how to turn a grid so that its slices lie in the usual radiological view.

    Args:
        geometry: The stored grid; oblique axes count for the world axis that they are nearest to.
        slices: ``stored``: no turn. ``axial``: slices towards superior, rows to posterior, columns
            to left. ``coronal``: slices towards posterior, rows to inferior, columns to left.
            ``sagittal``: slices towards right, rows to inferior, columns to posterior.
            ``thickest``: that one of the three whose slices lie across the axis of the largest
            spacing (the stored slice axis, where it is among the largest).
    """
    if slices == "stored":
        return Turn()
    axes = np.array(geometry.direction, np.float64).reshape(3, 3)[:, ::-1]  # columns z, y, x
    # array axis of each world axis: the assignment with the largest cosines
    held = max(
        permutations(range(3)), key=lambda axis: sum(abs(axes[w, axis[w]]) for w in range(3))
    )
    if slices == "thickest":
        across = held.index(thickest_axis(geometry))
        view = next(view for view in _VIEWS.values() if view[0][0] == across)
    else:
        view = _VIEWS[slices]
    z, y, x = ((held[world], bool(axes[world, held[world]] * sign < 0)) for world, sign in view)
    return Turn((z[0], y[0], x[0]), (z[1], y[1], x[1]))


def thickest_axis(geometry: Geometry) -> int:
    """Returns the array axis of the largest spacing; of equal ones the first."""
    largest = max(geometry.spacing_mm)
    return next(
        axis
        for axis, spacing in enumerate(geometry.spacing_mm)
        if spacing >= largest * (1 - _ROUNDING)
    )
