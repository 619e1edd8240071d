import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.cleanup import Cleanup, Drop, clean_map, split_instances, voxel_counts
from medsam2_ft.prepare.labels import clean

MAPS = arrays(np.uint8, st.tuples(*[st.integers(1, 6)] * 3), elements=st.sampled_from([0, 0, 1, 2]))
FULL = np.ones((3, 3, 3))


def objects_by_scipy(label_map: NDArray[np.uint8], label: int) -> list[NDArray[np.bool_]]:
    """Masks of the 26-connected objects of a label, by another implementation than ours."""
    numbered, count = ndimage.label(label_map == label, FULL)
    return [numbered == k for k in range(1, count + 1)]


def test_off_by_default_and_input_untouched() -> None:
    labels = np.zeros((2, 4, 4), np.uint8)
    labels[0, 0, 0] = 7
    cleaned, drops, instances = clean_map(labels, Cleanup())
    assert cleaned is labels
    assert (drops, instances) == ([], {})
    assert clean((labels,), Cleanup()).maps[0] is labels
    assert clean((labels,), Cleanup(drop_labels=(7,), min_voxels_3d=9)).maps == ()
    clean_map(labels, Cleanup(min_voxels_3d=9, min_pixels_2d=9))
    assert labels[0, 0, 0] == 7


@settings(max_examples=60, deadline=None)
@given(MAPS, st.integers(0, 12), st.integers(0, 6))
def test_small_objects_go_as_in_the_published_script(
    labels: NDArray[np.uint8], voxels: int, pixels: int
) -> None:
    """MedSAM's pre-processing calls cc3d.dust on the volume, then on each slice."""
    cleaned, drops, _ = clean_map(labels, Cleanup(min_voxels_3d=voxels, min_pixels_2d=pixels))
    reference = cc3d.dust(labels.copy(), threshold=voxels, connectivity=26)
    for plane in reference:
        plane[:] = cc3d.dust(plane.copy(), threshold=pixels, connectivity=8)
    np.testing.assert_array_equal(cleaned, reference)
    for label in (1, 2):
        lost = int((labels == label).sum() - (cleaned == label).sum())
        assert sum(drop.voxels for drop in drops if drop.label == label) == lost


def test_counts_of_every_drop() -> None:
    labels = np.zeros((2, 8, 8), np.uint8)
    labels[:, :3, :3] = 1  # 18 voxels
    labels[0, 6, 6] = 1  # a speck
    labels[0, 6, 0] = 2  # another label's speck
    labels[1, 5:7, 3:6] = 3  # 6 voxels
    labels[0, 5, 3] = 3  # joined to them, but alone in its slice
    labels[1, 0, 7] = 9
    rules = Cleanup(drop_labels=(9, 50), min_voxels_3d=5, min_pixels_2d=2)
    cleaned = clean((labels,), rules)
    assert cleaned.drops == (
        Drop("drop_labels", 9, 1, 1),
        Drop("min_voxels_3d", 1, 1, 1),
        Drop("min_voxels_3d", 2, 1, 1),
        Drop("min_pixels_2d", 3, 1, 1),
    )
    assert cleaned.counts == (voxel_counts(cleaned.maps[0]),) == ({1: 18, 3: 6},)


@settings(max_examples=40, deadline=None)
@given(MAPS)
def test_instances_are_the_connected_objects_largest_first(labels: NDArray[np.uint8]) -> None:
    result, instances = split_instances(labels, [1])
    expected = objects_by_scipy(labels, 1)
    ids = instances.get(1, ())
    assert ids == tuple(256 + k for k in range(1, len(expected) + 1))
    sizes = [int((result == new).sum()) for new in ids]
    assert sizes == sorted((int(mask.sum()) for mask in expected), reverse=True)
    for mask in expected:
        assert len(np.unique(result[mask])) == 1
    np.testing.assert_array_equal(result == 2, labels == 2)
    assert not (result == 1).any()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 25, 25), (5, 5, 5), (1, 7, 1)])
def test_instances_as_dense_as_they_can_be(shape: tuple[int, int, int]) -> None:
    labels = np.zeros(shape, np.uint8)
    labels[::2, ::2, ::2] = 1
    _, instances = split_instances(labels, [1])
    assert len(instances[1]) == labels.sum()


def test_parts_of_instances_count_for_their_label() -> None:
    labels = np.zeros((2, 6, 6), np.uint8)
    labels[:, :2, :2] = 4
    labels[0, 4:, 4:] = 4
    labels[1, 4, 4] = 4
    cleaned, drops, instances = clean_map(labels, Cleanup(min_pixels_2d=2, instances_of=(4,)))
    assert instances == {4: (1025, 1026)}
    assert drops == [Drop("min_pixels_2d", 4, 1, 1)]
    assert voxel_counts(cleaned) == {1025: 8, 1026: 4}


def test_instances_that_cannot_be_numbered() -> None:
    far = np.zeros((1, 1, 4), np.uint16)
    far[0, 0, 0], far[0, 0, 2] = 300, 257
    with pytest.raises(UserError, match="label 300"):
        split_instances(far, [300])
    far[0, 0, 0] = 1
    with pytest.raises(UserError, match="taken by"):
        split_instances(far, [1])
    with pytest.raises(UserError, match="taken by"):
        split_instances(np.ones((1, 1, 1), np.uint8), [1], taken={257})
    many = np.zeros((1, 40, 40), np.uint8)
    many[0, ::2, ::2] = 1
    with pytest.raises(UserError, match="400 separate objects"):
        split_instances(many, [1])


def test_empty_map() -> None:
    empty = np.zeros((2, 3, 3), np.uint8)
    rules = Cleanup(drop_labels=(1,), min_voxels_3d=5, min_pixels_2d=5, instances_of=(2,))
    cleaned, drops, instances = clean_map(empty, rules)
    assert not cleaned.any()
    assert (drops, instances, voxel_counts(empty)) == ([], {}, {})
