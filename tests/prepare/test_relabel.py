import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.cleanup import Cleanup, Drop
from medsam2_ft.prepare.labels import Cleaned, clean, names_of, regions_of
from medsam2_ft.prepare.relabel import renumber
from medsam2_ft.prepare.settings import Settings

MAPS = arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3), elements=st.sampled_from([0, 1, 2, 4]))


def cleaned(maps: tuple[NDArray[np.uint8], ...], rules: Cleanup) -> Cleaned:
    return clean(maps, rules)


@settings(max_examples=60, deadline=None)
@given(MAPS, st.sampled_from([{7: (1, 2)}, {1: (1, 4)}, {300: (2,)}, {2: (1,), 1: (2,)}]))
def test_merge_of_one_map(labels: NDArray[np.uint8], merge: dict[int, tuple[int, ...]]) -> None:
    before = labels.copy()
    (result,) = renumber((labels,), Cleanup(merge=merge)).maps
    expected = labels.astype(np.uint16)
    for new, ids in merge.items():
        expected[np.isin(labels, ids)] = new
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(labels, before)
    assert result.dtype == (np.uint16 if expected.max() > 255 else np.uint8)


@settings(max_examples=40, deadline=None)
@given(MAPS)
def test_keep_is_drop_of_the_others(labels: NDArray[np.uint8]) -> None:
    kept = renumber((labels,), Cleanup(keep=(1, 9)))
    np.testing.assert_array_equal(kept.maps[0], np.where(labels == 1, 1, 0))
    dropped = renumber((labels,), Cleanup(drop_labels=(2, 4)))
    np.testing.assert_array_equal(kept.maps[0], dropped.maps[0])
    counts = {label: int((labels == label).sum()) for label in (2, 4)}
    assert kept.drops == tuple(Drop("keep", k, 1, n) for k, n in counts.items() if n)
    assert [drop.voxels for drop in dropped.drops] == [drop.voxels for drop in kept.drops]


def test_merge_over_two_maps_that_overlap() -> None:
    first, second = np.zeros((2, 1, 4, 4), np.uint8)
    first[0, :2] = 1
    first[0, 2:] = 2
    second[0, 1:3] = 3
    second[0, 3, 3] = 5
    result = renumber((first, second), Cleanup(merge={3: (1, 3)}))
    assert result.merged == {3: (1, 3)}
    of_id = {label: np.logical_or.reduce([m == label for m in result.maps]) for label in (2, 3, 5)}
    np.testing.assert_array_equal(of_id[3], (first == 1) | (second == 3))
    np.testing.assert_array_equal(of_id[2], first == 2)
    np.testing.assert_array_equal(of_id[5], second == 5)
    assert [sorted(set(m.flat) - {0}) for m in result.maps] == [[2], [3, 5]]


def test_a_new_id_that_another_label_has() -> None:
    labels = np.array([[[1, 2, 3]]], np.uint8)
    with pytest.raises(UserError, match=r"makes label 1, which the file uses.*1: \[1, 2, 3\]"):
        renumber((labels,), Cleanup(merge={1: (2, 3)}))
    # without a label to move, nothing is joined
    assert renumber((labels,), Cleanup(merge={1: (8, 9)})).maps[0] is labels
    moved = renumber((labels,), Cleanup(merge={1: (2, 3), 9: (1,)})).maps[0]
    assert moved.tolist() == [[[9, 1, 1]]]
    dropped = renumber((labels,), Cleanup(drop_labels=(1,), merge={1: (2, 3)})).maps[0]
    assert dropped.tolist() == [[[0, 1, 1]]]


def test_the_order_is_ids_merge_objects_instances() -> None:
    labels = np.zeros((1, 6, 12), np.uint8)
    labels[0, :2, :2] = 1
    labels[0, :2, 2:4] = 2  # touches label 1
    labels[0, 4, 0] = 2  # a speck
    labels[0, 4:6, 6:10] = 1
    labels[0, 0, 11] = 3
    rules = Cleanup(
        keep=(1, 2), merge={7: (1, 2)}, min_voxels_3d=3, instances_of=(7,), min_pixels_2d=2
    )
    result = cleaned((labels,), rules)
    assert result.drops == (Drop("keep", 3, 1, 1), Drop("min_voxels_3d", 7, 1, 1))
    assert result.instances == {7: (7 * 256 + 1, 7 * 256 + 2)}
    assert result.counts == ({1793: 8, 1794: 8},)
    assert result.changed
    settings = Settings("CT", label_names={3: "gone"}, regions={"all": (7,), "none": (1,)})
    names = {1: "left", 2: "right", 3: "x"}
    assert names_of(names, settings, result) == {1793: "left + right", 1794: "left + right"}
    file_regions = {"both": (1, 2), "one": (1,), "with 3": (1, 2, 3)}
    assert regions_of(file_regions, settings, result) == {
        "both": (1793, 1794), "with 3": (1793, 1794), "all": (1793, 1794),
    }  # fmt: skip


def test_names_after_ids_have_moved() -> None:
    labels = np.array([[[1, 2, 4]]], np.uint8)
    result = cleaned((labels,), Cleanup(merge={2: (1,), 1: (2,)}))
    names = {1: "one", 2: "two", 4: "four"}
    assert names_of(names, Settings("CT"), result) == {1: "two", 2: "one", 4: "four"}
    assert names_of({2: "two"}, Settings("CT"), result) == {1: "two"}  # 2 was the nameless 1
    own = Settings("CT", label_names={2: "mine"})
    assert names_of(names, own, result) == {1: "two", 2: "mine", 4: "four"}


def test_regions_that_hold_a_part_of_a_merged_label_go() -> None:
    result = cleaned((np.array([[[1, 2, 3]]], np.uint8),), Cleanup(merge={7: (1, 2)}))
    file_regions = {"torn": (1, 3), "whole": (1, 2, 3), "apart": (3,)}
    assert regions_of(file_regions, Settings("CT"), result) == {"whole": (3, 7), "apart": (3,)}
