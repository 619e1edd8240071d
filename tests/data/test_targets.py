import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medsam2_ft.data.targets import (
    OTHER,
    compact_labels,
    low_resolution_mask,
    resize,
    shrink_labels,
)

sides = st.integers(1, 40)


def test_shrinking_averages_areas() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96)).astype(np.float32)
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(image)[None], 16)[0]
    np.testing.assert_allclose(resize(image, 16), expected, atol=1e-3)


def test_growing_is_torchs_bilinear() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 20)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None, None], (64, 64), mode="bilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(resize(image, 64), expected, atol=1e-2)


def test_one_axis_may_shrink_while_the_other_grows() -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 8)).astype(np.float32)
    pooled = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(image)[None], (16, 8))
    expected = torch.nn.functional.interpolate(
        pooled[None], (16, 16), mode="bilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(resize(image, 16), expected, atol=1e-2)


@pytest.mark.parametrize("hw", [(64, 64), (30, 64), (64, 200), (200, 30), (7, 7)])
def test_resizing_keeps_colour_and_type(hw: tuple[int, int]) -> None:
    image = np.full((*hw, 3), (10, 20, 30), np.uint8)
    small = resize(image, 64)
    assert small.dtype == np.uint8
    np.testing.assert_array_equal(small, np.full((64, 64, 3), (10, 20, 30)))


def test_mask_is_true_where_half_a_cell_is_covered() -> None:
    mask = np.zeros((8, 8), bool)
    mask[0:4, 0:2] = True  # half of the first cell
    mask[0:4, 4:5] = True  # a quarter of the second
    np.testing.assert_array_equal(low_resolution_mask(mask, 2), [[True, False], [False, False]])


@given(st.tuples(sides, sides).flatmap(lambda hw: arrays(np.bool_, hw)), st.sampled_from([4, 16]))
def test_an_object_never_vanishes_and_an_empty_mask_stays_empty(
    mask: np.ndarray, size: int
) -> None:
    assert low_resolution_mask(mask, size).any() == mask.any()


def test_a_speck_in_a_huge_image_keeps_its_cell() -> None:
    mask = np.zeros((4000, 3000), bool)
    mask[3999, 0] = True
    small = low_resolution_mask(mask, 16)
    assert small.sum() == 1
    assert small[15, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_compact_labels_number_the_chosen(dtype: type[np.unsignedinteger]) -> None:
    high = min(np.iinfo(dtype).max, 70000)
    plane = np.array([[0, 5, 9], [high, 5, 0]], dtype)
    expected = [[0, OTHER, 4], [3, OTHER, 0]]
    np.testing.assert_array_equal(compact_labels(plane, [high, 9], 3), expected)


def test_compact_labels_of_background_alone() -> None:
    assert (compact_labels(np.zeros((3, 4), np.uint8), [], 1) == 0).all()


@example(seed=3171, size_hw=(4, 5))  # two objects fall on one pixel
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(4, 12), st.integers(4, 12)))
def test_shrunk_labels_lose_no_object(seed: int, size_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros((90, 70), np.uint8)
    for number in range(1, 4):
        labels[rng.integers(90), rng.integers(20 * number, 20 * number + 10)] = number
    small = shrink_labels(labels, size_hw)
    assert small.shape == size_hw
    assert set(np.unique(small)) == {0, 1, 2, 3}
