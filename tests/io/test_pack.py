from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from medsam2_ft.io.pack import bounding_box, pack_masks

SHAPE = (2, 4, 5)
some_masks = st.lists(hnp.arrays(np.bool_, SHAPE), max_size=6)


@settings(deadline=None)
@given(some_masks, st.sampled_from([1, 253, 65530]))
def test_every_mask_comes_back(masks: list[NDArray[np.bool_]], first: int) -> None:
    maps = pack_masks(SHAPE, ((first + i, mask) for i, mask in enumerate(masks)))
    assert len(maps) >= 1
    for i, mask in enumerate(masks):
        holding = [m == first + i for m in maps if (m == first + i).any()]
        assert len(holding) == mask.any()
        if holding:
            np.testing.assert_array_equal(holding[0], mask)
    assert sum((m > 0).sum() for m in maps) == sum(mask.sum() for mask in masks)
    for label_map in maps:
        assert label_map.dtype == (np.uint8 if label_map.max() <= 255 else np.uint16)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, SHAPE, elements=st.integers(0, 9)))
def test_disjoint_masks_share_one_map(label_map: NDArray[np.uint8]) -> None:
    (packed,) = pack_masks(SHAPE, ((i, label_map == i) for i in range(1, 10)))
    np.testing.assert_array_equal(packed, label_map)


def test_overlaps_go_to_the_first_map_with_room() -> None:
    a, b, c = (np.zeros((1, 1, 6), bool) for _ in range(3))
    a[..., :3], b[..., 2:5], c[..., 5] = True, True, True
    first, second = pack_masks((1, 1, 6), [(4, a), (300, b), (2, c)])
    assert first.tolist() == [[[4, 4, 4, 0, 0, 2]]]
    assert first.dtype == np.uint8
    assert second.tolist() == [[[0, 0, 300, 300, 300, 0]]]
    assert second.dtype == np.uint16


def test_nothing_to_draw_is_one_empty_map() -> None:
    for masks in ([], [(3, np.zeros(SHAPE, bool))]):
        (packed,) = pack_masks(SHAPE, masks)
        assert packed.shape == SHAPE
        assert packed.dtype == np.uint8
        assert not packed.any()


def test_one_mask_at_a_time() -> None:
    buffer = np.zeros(SHAPE, bool)

    def reused() -> Iterator[tuple[int, NDArray[np.bool_]]]:
        for z in range(SHAPE[0]):
            buffer[:] = False
            buffer[z] = True
            yield z + 1, buffer

    (packed,) = pack_masks(SHAPE, reused())
    assert packed[:, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize("label", [0, -1, 65536, 7])
def test_bad_ids(label: int) -> None:
    with pytest.raises(ValueError, match="label id"):
        pack_masks(SHAPE, [(7, np.ones(SHAPE, bool)), (label, np.ones(SHAPE, bool))])


def test_mask_of_another_shape() -> None:
    with pytest.raises(ValueError, match="shape"):
        pack_masks(SHAPE, [(1, np.ones((2, 4, 4), bool))])


def test_box_of_a_mask() -> None:
    mask = np.zeros((4, 5, 6), bool)
    assert bounding_box(mask) is None
    mask[1, 2, 3] = mask[2, 4, 1] = True
    assert bounding_box(mask) == (slice(1, 3), slice(2, 5), slice(1, 4))
