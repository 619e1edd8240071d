"""Against SimpleITK's nearest-neighbour resampler."""

from dataclasses import replace

import numpy as np
import pytest
from grids import ORIENTATIONS, oriented, resampled_by_itk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.orient import Turn
from medsam2_ft.io.regrid import regrid_labels
from medsam2_ft.types import Geometry, LabelVolume

SHAPE = (9, 14, 11)


def blob(shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Labels with background around them on most sides."""
    array = np.zeros(shape, np.uint8)
    low = [int(rng.integers(0, n // 2)) for n in shape]
    high = [int(rng.integers(n // 2 + 1, n + 1)) for n in shape]
    part = array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    part[:] = rng.integers(0, 4, part.shape)
    part.flat[0] = 3
    return array


def centred(geometry: Geometry, shape: tuple[int, int, int], at: tuple[float, ...]) -> Geometry:
    """The grid moved so that its centre lies at a world position."""
    axes = np.array(geometry.direction).reshape(3, 3) * np.array(geometry.spacing_mm[::-1])
    x, y, z = np.array(at) - axes @ ((np.array(shape[::-1]) - 1) / 2)
    return replace(geometry, origin_mm=(float(x), float(y), float(z)))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(ORIENTATIONS),
    st.sampled_from(ORIENTATIONS),
    st.sampled_from([0.0, 30.0]),
)
def test_equal_to_itk(
    seed: int,
    one: tuple[tuple[int, ...], tuple[float, ...]],
    other: tuple[tuple[int, ...], tuple[float, ...]],
    slant: float,
) -> None:
    rng = np.random.default_rng(seed)
    shape = (7, 12, 10)
    source = centred(oriented(*one, rng, slant), SHAPE, (3, -4, 5))
    like = centred(oriented(*other, rng, slant), shape, tuple(rng.uniform(-8, 8, 3)))
    array = blob(SHAPE, rng)
    expected = resampled_by_itk(array, source, like, shape)
    if not expected.any():
        with pytest.raises(UserError, match="no label lies within the image"):
            regrid_labels(LabelVolume((array,), {}, source), like, shape)
        return
    result = regrid_labels(LabelVolume((array,), {1: "a"}, source), like, shape)
    np.testing.assert_array_equal(result.maps[0], expected)
    assert (result.geometry, result.label_names) == (like, {1: "a"})
    assert f"became {np.count_nonzero(expected)} (" in result.notes[0]
    assert f" {np.count_nonzero(array)} label voxels" in result.notes[0]


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_turned_grids_are_exact(order: tuple[int, ...], signs: tuple[float, ...]) -> None:
    rng = np.random.default_rng(3)
    geometry = oriented((0, 1, 2), (1.0, 1.0, 1.0), rng)
    array = blob(SHAPE, rng)
    flips = tuple(sign < 0 for sign in signs)
    turn = Turn((order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))
    turned, grid = turn.array(array), turn.geometry(geometry, SHAPE)
    back = regrid_labels(LabelVolume((turned, turned), {}, grid), geometry, SHAPE)
    for label_map in back.maps:
        np.testing.assert_array_equal(label_map, array)
    if turn != Turn():
        assert back.notes == ("the labels' axes were turned to the image's, voxel by voxel",)


def test_a_part_that_was_cut_out_comes_back() -> None:
    array = np.zeros((6, 8, 8), np.uint8)
    array[2:4, 3:6, 2:5] = 200
    grid = Geometry((2.0, 0.5, 0.7), (10.0, -5.0, 3.0))
    cut = Geometry(grid.spacing_mm, (10.0 + 2 * 0.7, -5.0 + 1 * 0.5, 3.0 + 1 * 2.0))
    labels = LabelVolume((array[1:5, 1:7, 2:7],), {}, cut)
    result = regrid_labels(labels, grid, (6, 8, 8))
    np.testing.assert_array_equal(result.maps[0], array)
    part = regrid_labels(LabelVolume((array,), {}, grid), cut, (4, 6, 2))
    np.testing.assert_array_equal(part.maps[0], array[1:5, 1:7, 2:4])
    (note,) = part.notes
    assert note.startswith("the labels' axes were turned to the image's, voxel by voxel; 6 voxels")


def test_rounding_leaves_the_maps_alone() -> None:
    array = np.ones(SHAPE, np.uint16)
    labels = LabelVolume((array,), {}, Geometry((2.0, 1.0, 1.0), (0.05, 0.0, 0.0)))
    result = regrid_labels(labels, Geometry((2.0, 1.0, 1.0)), SHAPE)
    assert result.maps[0] is array
    assert result.notes == ()
    assert result.geometry == Geometry((2.0, 1.0, 1.0))


def test_what_is_lost_is_said() -> None:
    array = np.zeros((4, 8, 8), np.uint16)
    array[0, :4, :4] = 300
    array[3, 7, 7] = 7
    coarse = Geometry((1.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    labels = LabelVolume((array,), {}, Geometry(), notes=("from the reader",))
    result = regrid_labels(labels, coarse, (3, 4, 4))
    assert result.maps[0].dtype == np.uint16
    assert result.notes[0] == "from the reader"
    assert "17 label voxels (17 mm3) became 4 (16 mm3); 1 voxels lay outside" in result.notes[1]
    assert result.notes[2] == "no voxel is left of label 7: outside, or too small"


def test_what_lies_before_and_behind_is_outside() -> None:
    like = Geometry((1.0, 1.0, 1.0), (2.0, 0.0, 0.0))
    labels = LabelVolume((np.ones((1, 1, 9), np.uint8),), {}, Geometry())
    (note,) = regrid_labels(labels, like, (1, 1, 4)).notes
    assert note.endswith("; 5 voxels lay outside the image")  # two and three
    labels = LabelVolume((np.ones((1, 1, 5), np.uint8),), {}, Geometry())
    (note,) = regrid_labels(labels, like, (1, 1, 4)).notes
    assert note.endswith("; 2 voxels lay outside the image")


def test_between_two_voxels_the_upper_one() -> None:
    array = np.zeros((1, 1, 4), np.uint8)
    array[0, 0] = [1, 2, 3, 4]
    fine = Geometry((1.0, 1.0, 1.0), (0.5, 0.0, 0.0))
    result = regrid_labels(LabelVolume((array,), {}, Geometry()), fine, (1, 1, 4))
    assert result.maps[0].tolist() == [[[2, 3, 4, 0]]]


def test_empty_labels_stay_empty() -> None:
    empty = LabelVolume((np.zeros(SHAPE, np.uint8),), {}, Geometry())
    result = regrid_labels(empty, Geometry((2.0, 2.0, 2.0)), (3, 3, 3))
    assert result.maps[0].shape == (3, 3, 3)
    assert not result.maps[0].any()


def test_elsewhere_is_refused_with_the_name() -> None:
    labels = LabelVolume(
        (np.ones((2, 2, 2), np.uint8),), {}, Geometry((1.0, 1.0, 1.0), (900.0, 0.0, 0.0))
    )
    with pytest.raises(UserError, match=r"seg\.nii: no label lies within the image"):
        regrid_labels(labels, Geometry(), (2, 2, 2), "seg.nii")
