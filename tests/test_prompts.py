import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medsam2_ft.prompts import (
    INWARD_LIMIT,
    jitter_box,
    mask_to_box,
    middle_slice,
    object_z_range,
    pad_box,
    random_negative_box,
    scale_boxes,
)

sides = st.integers(1, 24)
masks = st.tuples(sides, sides).flatmap(lambda shape: arrays(np.bool_, shape))
seeds = st.integers(0, 2**32 - 1)


@st.composite
def boxes_in_images(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, int]]:
    height, width = draw(st.integers(1, 200)), draw(st.integers(1, 200))
    x0, x1 = sorted(draw(st.lists(st.integers(0, width - 1), min_size=2, max_size=2)))
    y0, y1 = sorted(draw(st.lists(st.integers(0, height - 1), min_size=2, max_size=2)))
    return np.array([x0, y0, x1, y1], np.float32), (height, width)


@given(masks)
def test_box_of_a_mask_holds_exactly_the_mask(mask: np.ndarray) -> None:
    box = mask_to_box(mask)
    if not mask.any():
        assert box is None
        return
    assert box is not None
    assert box.dtype == np.float32
    x0, y0, x1, y1 = box.astype(int)
    assert mask[y0 : y1 + 1, x0 : x1 + 1].sum() == mask.sum()
    for edge in (mask[y0, :], mask[y1, :], mask[:, x0], mask[:, x1]):
        assert edge.any()


def test_box_of_a_mask_agrees_with_torchvision() -> None:
    from torchvision.ops import masks_to_boxes

    rng = np.random.default_rng(0)
    many = rng.random((20, 15, 23)) < 0.02
    many[:, 3, 4] = True
    ours = np.stack([mask_to_box(mask) for mask in many])
    np.testing.assert_array_equal(ours, masks_to_boxes(torch.from_numpy(many)).numpy())


def test_one_pixel_gives_equal_corners() -> None:
    mask = np.zeros((4, 6), bool)
    mask[2, 5] = True
    np.testing.assert_array_equal(mask_to_box(mask), [5, 2, 5, 2])


@given(boxes_in_images(), seeds, st.floats(0, 50))
def test_outward_jitter_never_shrinks_and_stays_inside(
    box_and_hw: tuple[np.ndarray, tuple[int, int]], seed: int, largest: float
) -> None:
    box, hw = box_and_hw
    moved = jitter_box(box, np.random.default_rng(seed), largest, hw)
    assert (moved[:2] <= box[:2]).all()
    assert (moved[2:] >= box[2:]).all()
    assert (moved[:2] >= 0).all()
    assert moved[2] <= hw[1] - 1
    assert moved[3] <= hw[0] - 1
    assert (np.abs(moved - box) <= largest + 1e-4).all()


@given(boxes_in_images(), seeds, st.floats(0, 50))
def test_inward_jitter_never_collapses_a_box(
    box_and_hw: tuple[np.ndarray, tuple[int, int]], seed: int, largest: float
) -> None:
    box, hw = box_and_hw
    moved = jitter_box(box, np.random.default_rng(seed), largest, hw, inward=True)
    before, after = box[2:] - box[:2], moved[2:] - moved[:2]
    assert (after >= (1 - 2 * INWARD_LIMIT) * before - 1e-4).all()
    assert (moved[:2] >= 0).all()
    assert (moved[2:] <= np.array(hw[::-1]) - 1).all()


def test_jitter_moves_every_side_over_its_whole_range() -> None:
    box, hw = np.array([100, 100, 200, 200], np.float32), (400, 400)
    rng = np.random.default_rng(0)
    outward = np.stack([jitter_box(box, rng, 20.0, hw) - box for _ in range(400)])
    assert (outward.min(axis=0) < [-18, -18, 1, 1]).all()
    assert (outward.max(axis=0) > [-1, -1, 18, 18]).all()
    both = np.stack([jitter_box(box, rng, 20.0, hw, inward=True) - box for _ in range(400)])
    assert (both.min(axis=0) < -18).all()
    assert (both.max(axis=0) > 18).all()


def test_jitter_of_a_scaled_box_beyond_the_last_index_does_not_shrink_it() -> None:
    box = np.array([10.0, 10.0, 63.8, 63.8], np.float32)  # (w - 1) * S / w where w > S
    moved = jitter_box(box, np.random.default_rng(0), 5.0, (64, 64))
    np.testing.assert_array_equal(moved[2:], box[2:])


def test_padding_is_clipped_to_the_image() -> None:
    box = np.array([1, 50, 98, 60], np.float32)
    np.testing.assert_array_equal(pad_box(box, 5.0, (100, 100)), [0, 45, 99, 65])


def test_scaling_equals_metas_transforms() -> None:
    from sam2.utils.transforms import SAM2Transforms

    boxes = np.array([[0, 0, 511, 383], [10, 20, 10, 20]], np.float32)
    transforms = SAM2Transforms(resolution=1024, mask_threshold=0.0)
    expected = transforms.transform_boxes(
        torch.from_numpy(boxes.copy()), normalize=True, orig_hw=(384, 512)
    )
    ours = scale_boxes(boxes, (384, 512), (1024, 1024))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected.reshape(-1, 4).numpy(), rtol=1e-6)


@given(
    arrays(np.float32, (3, 4), elements=st.floats(0, 500, width=32)),
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.floats(0.125, 8),
)
def test_scaling_is_linear(
    boxes: np.ndarray, from_hw: tuple[int, int], to_hw: tuple[int, int], factor: float
) -> None:
    scaled = scale_boxes((boxes * factor).astype(np.float32), from_hw, to_hw)
    np.testing.assert_allclose(
        scaled, scale_boxes(boxes, from_hw, to_hw) * factor, rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(scale_boxes(boxes, from_hw, from_hw), boxes, rtol=1e-6, atol=1e-30)


def test_scaling_no_boxes_gives_none() -> None:
    assert scale_boxes(np.zeros((0, 4), np.float32), (3, 4), (5, 6)).shape == (0, 4)


def test_z_range_is_inclusive() -> None:
    mask = np.zeros((9, 3, 3), bool)
    assert object_z_range(mask) is None
    mask[2, 0, 0] = mask[6, 1, 1] = True
    assert object_z_range(mask) == (2, 6)


@pytest.mark.parametrize(
    ("labelled", "expected"),
    [([4], 4), ([2, 3, 4, 5], 3), ([0, 1, 9, 10], 1), ([0, 3, 7, 10], 3), ([10, 0, 6], 6)],
)
def test_middle_slice_is_the_nearest_labelled_one(labelled: list[int], expected: int) -> None:
    assert middle_slice(labelled) == expected


def test_middle_slice_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="without labelled slices"):
        middle_slice([])


@given(masks, st.tuples(st.integers(0, 30), st.integers(0, 30)), seeds)
def test_negative_box_holds_no_label(
    occupied: np.ndarray, size_wh: tuple[int, int], seed: int
) -> None:
    box = random_negative_box(occupied, size_wh, np.random.default_rng(seed))
    if box is None:
        assert occupied.any()
        return
    x0, y0, x1, y1 = box.astype(int)
    height, width = occupied.shape
    assert 0 <= x0 <= x1 < width
    assert 0 <= y0 <= y1 < height
    assert not occupied[y0 : y1 + 1, x0 : x1 + 1].any()
    assert x1 - x0 + 1 == min(max(size_wh[0], 1), width)


def test_no_negative_box_where_everything_is_labelled() -> None:
    full = np.ones((8, 8), bool)
    assert random_negative_box(full, (2, 2), np.random.default_rng(0)) is None
