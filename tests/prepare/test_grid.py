from dataclasses import replace

import numpy as np
import pytest

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.grid import check_same_grid
from medsam2_ft.types import Geometry, LabelVolume, Volume

SHAPE = (10, 40, 50)
GRID = Geometry((2.5, 0.8, 0.8), (-10.0, 20.0, 5.0))


def check(geometry: Geometry, shape: tuple[int, ...] = SHAPE, world: bool = True) -> None:
    image = Volume(np.zeros(SHAPE, np.int16), GRID)
    labels = LabelVolume((np.zeros(shape, np.uint8),), {}, geometry)
    check_same_grid(image, labels, "a.nii", "a_seg.nii", world=world)


@pytest.mark.parametrize(
    "geometry",
    [
        GRID,
        replace(GRID, origin_mm=(-10.0 + 0.07, 20.0, 5.0)),  # less than a tenth of 0.8 mm
        replace(GRID, spacing_mm=(2.5, 0.8001, 0.8)),
        replace(GRID, direction=(1.0, 0.0, 0.0, 0.0, 1.0, 1e-4, 0.0, -1e-4, 1.0)),
    ],
)
def test_rounding_passes(geometry: Geometry) -> None:
    check(geometry)


@pytest.mark.parametrize(
    "geometry",
    [
        replace(GRID, origin_mm=(-10.0 + 0.09, 20.0, 5.0)),
        replace(GRID, spacing_mm=(2.5, 0.81, 0.8)),
        replace(GRID, spacing_mm=(0.8, 0.8, 2.5)),
        replace(GRID, direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)),
        Geometry(),
    ],
)
def test_another_place_is_refused(geometry: Geometry) -> None:
    with pytest.raises(UserError, match=r"a_seg\.nii: lies elsewhere than a\.nii"):
        check(geometry)
    check(geometry, world=False)


def test_another_shape_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"a_seg\.nii: shape \(10, 50, 40\).*a\.nii, \(10, 40, 50\)"
    ):
        check(GRID, (10, 50, 40))


def test_colour_images_compare_their_grid() -> None:
    image = Volume(np.zeros((*SHAPE, 3), np.uint8), GRID)
    check_same_grid(image, LabelVolume((np.zeros(SHAPE, np.uint8),), {}, GRID), "a", "b")
