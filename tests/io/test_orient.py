"""Against nibabel's orientations, whose codes name where each axis points."""

from typing import get_args

import nibabel as nib
import numpy as np
import pytest
from grids import ORIENTATIONS, affine_of, oriented
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from medsam2_ft.io.orient import Slices, Turn, thickest_axis, turn_for
from medsam2_ft.types import Geometry

# where x, y and z of the turned array point
CODES = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIR"}
SHAPE = (3, 4, 5)


@pytest.mark.parametrize("slices", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_views_equal_nibabel(
    slices: Slices, order: tuple[int, ...], signs: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(7)
    geometry = oriented(order, signs, rng)
    array = rng.integers(0, 255, SHAPE).astype(np.uint8)
    turn = turn_for(geometry, slices)
    change = ornt_transform(io_orientation(affine_of(geometry)), axcodes2ornt(tuple(CODES[slices])))
    np.testing.assert_array_equal(turn.array(array), apply_orientation(array.T, change).T)
    expected = affine_of(geometry) @ inv_ornt_aff(change, SHAPE[::-1])
    turned = turn.geometry(geometry, SHAPE)
    np.testing.assert_allclose(affine_of(turned), expected, atol=1e-9)
    assert "".join(nib.aff2axcodes(affine_of(turned))) == CODES[slices]
    assert np.linalg.det(np.reshape(turned.direction, (3, 3))) == pytest.approx(1)
    assert turn_for(turned, slices) == Turn()


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thickest(order: tuple[int, ...], signs: tuple[float, ...], axis: int) -> None:
    spacing = [0.7, 0.9, 0.8]
    spacing[axis] = 5.0
    geometry = oriented(order, signs, np.random.default_rng(1))
    geometry = Geometry((spacing[0], spacing[1], spacing[2]), (1.0, 2.0, 3.0), geometry.direction)
    turn = turn_for(geometry, "thickest")
    turned = turn.geometry(geometry, SHAPE)
    assert turn.order[0] == axis
    assert turned.spacing_mm[0] == 5.0
    assert "".join(nib.aff2axcodes(affine_of(turned))) in CODES.values()


def test_equal_spacings_keep_the_slice_axis() -> None:
    assert thickest_axis(Geometry((1.0, 1.0001, 1.0))) == 0
    assert thickest_axis(Geometry((1.0, 1.1, 1.1))) == 1


def test_stored_and_colour() -> None:
    geometry = Geometry(direction=(0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    assert turn_for(geometry, "stored") == Turn()
    assert Turn().geometry(geometry, SHAPE) is geometry
    colour = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
    turn = turn_for(geometry, "axial")
    assert turn != Turn()
    for channel in range(3):
        np.testing.assert_array_equal(
            turn.array(colour)[..., channel], turn.array(colour[..., channel])
        )
    assert get_args(Slices) == ("stored", *CODES, "thickest")
