from dataclasses import replace

import numpy as np
import pytest

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.grid import on_image_grid
from medsam2_ft.types import Geometry, LabelVolume, Volume

SHAPE = (10, 40, 50)
GRID = Geometry((2.5, 0.8, 0.8), (-10.0, 20.0, 5.0))


def place(
    geometry: Geometry, shape: tuple[int, ...] = SHAPE, known: tuple[bool, bool] = (True, True)
) -> tuple[LabelVolume, LabelVolume]:
    """Labels as read, and on the grid of the image."""
    image = Volume(np.zeros(SHAPE, np.int16), GRID, known[0])
    labels = LabelVolume((np.ones(shape, np.uint8),), {}, geometry, known[1])
    return labels, on_image_grid(image, labels, "a.nii", "a_seg.nii")


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
    given, placed = place(geometry)
    assert placed.maps[0] is given.maps[0]
    assert placed.notes == ()
    assert placed.geometry == GRID


@pytest.mark.parametrize(
    "geometry",
    [
        replace(GRID, origin_mm=(-10.0 + 0.09, 20.0, 5.0)),
        replace(GRID, spacing_mm=(2.5, 0.81, 0.8)),
        replace(GRID, direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
                origin_mm=(29.2, 51.2, 5.0)),
    ],
)  # fmt: skip
def test_another_place_is_resampled_and_said(geometry: Geometry) -> None:
    _, placed = place(geometry)
    assert placed.maps[0].shape == SHAPE
    assert len(placed.notes) == 1
    assert place(geometry, known=(True, False))[1].notes == ()
    assert place(geometry, known=(False, True))[1].maps[0] is not placed.maps[0]


def test_another_shape_is_resampled_in_the_world() -> None:
    coarse = Geometry((5.0, 1.6, 1.6), (-10.0 + 0.4, 20.0 + 0.4, 5.0 + 1.25))
    _, placed = place(coarse, (5, 20, 25))
    assert placed.maps[0].all()
    assert "2500 label voxels (32000 mm3) became 20000 (32000 mm3)" in placed.notes[0]


def test_another_shape_without_positions_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"a_seg\.nii: shape \(10, 50, 40\).*a\.nii, \(10, 40, 50\)"
    ):
        place(GRID, (10, 50, 40), (True, False))


def test_nothing_within_the_image() -> None:
    with pytest.raises(UserError, match=r"a_seg\.nii: no label lies within the image"):
        place(replace(GRID, origin_mm=(500.0, 0.0, 0.0)))


def test_a_header_that_was_never_set() -> None:
    flipped = Geometry(direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    for geometry in (Geometry(), flipped):
        with pytest.raises(UserError, match=r"a_seg\.nii: lies elsewhere.*never been set"):
            place(geometry)
    labels = LabelVolume((np.ones(SHAPE, np.uint8),), {}, GRID)
    with pytest.raises(UserError, match=r"a\.nii: lies elsewhere.*never been set"):
        on_image_grid(Volume(np.zeros(SHAPE, np.int16)), labels, "a.nii", "a_seg.nii")


def test_colour_images_compare_their_grid() -> None:
    image = Volume(np.zeros((*SHAPE, 3), np.uint8), GRID)
    labels = LabelVolume((np.zeros(SHAPE, np.uint8),), {}, GRID)
    assert on_image_grid(image, labels, "a", "b").maps[0] is labels.maps[0]
