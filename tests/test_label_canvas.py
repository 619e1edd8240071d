"""Masks to label maps, against the same on whole arrays."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.label_canvas import LabelCanvas
from medsam2_ft.object_prompts import ObjectPrompt

SHAPE = (12, 20, 24)
BOX = np.array([0, 0, 5, 5], np.float32)


def prompts() -> list[ObjectPrompt]:
    """Prompted on different frames, so that they meet in opposite directions."""
    where = {3: (2, (0, 9)), 9: (8, (1, 11)), 250: (5, (3, 6)), 7: (2, (2, 2))}
    return [ObjectPrompt.from_box(i, frame, BOX, z_range) for i, (frame, z_range) in where.items()]


def blobs(axis: int, seed: int = 0) -> dict[tuple[int, int], NDArray[np.float32]]:
    """Smooth random logits by (object, frame), negative in about half of the pixels."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    hw = tuple(side for i, side in enumerate(SHAPE) if i != axis)
    return {
        (p.object_id, frame): gaussian_filter(rng.normal(size=hw), 2).astype(np.float32)
        for p in prompts()
        for frame in range(p.z_range[0], p.z_range[1] + 1)
    }


def visits(objects: Sequence[ObjectPrompt]) -> Iterator[tuple[int, list[int]]]:
    """Frames and their objects in the order of ``propagate``."""
    for reverse in (False, True):
        for frame in sorted(range(12), reverse=reverse):
            ids = [
                p.object_id
                for p in objects
                if (
                    p.z_range[0] <= frame < p.frame if reverse else p.frame <= frame <= p.z_range[1]
                )
            ]
            if ids:
                yield frame, ids


def drawn(canvas: LabelCanvas, logits: dict[tuple[int, int], NDArray[np.float32]]) -> None:
    for frame, ids in visits(prompts()):
        canvas.draw(frame, ids, np.stack([logits[i, frame] for i in ids]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_larger_logit_wins_across_directions(axis: int) -> None:
    logits = blobs(axis)
    canvas = LabelCanvas(SHAPE, prompts(), axis, "largest_logit")
    drawn(canvas, logits)
    assert canvas.spill.file is not None, "objects meet in opposite directions"
    best = np.zeros(SHAPE)
    expected = np.zeros(SHAPE, np.uint8)
    for (object_id, frame), plane in logits.items():
        wins = plane > np.moveaxis(best, axis, 0)[frame]
        np.moveaxis(expected, axis, 0)[frame][wins] = object_id
        np.moveaxis(best, axis, 0)[frame][wins] = plane[wins]
    (actual,) = canvas.maps
    assert np.array_equal(actual, expected)
    assert set(np.unique(actual)) == {0, 3, 7, 9, 250}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_overlaps_are_kept_in_further_maps(axis: int) -> None:
    logits = blobs(axis)
    canvas = LabelCanvas(SHAPE, prompts(), axis, "keep")
    drawn(canvas, logits)
    for prompt in prompts():
        mask = np.zeros(SHAPE, bool)
        for frame in range(prompt.z_range[0], prompt.z_range[1] + 1):
            np.moveaxis(mask, axis, 0)[frame] = logits[prompt.object_id, frame] > 0
        inside = [m == prompt.object_id for m in canvas.maps]
        assert [bool(m.any()) for m in inside].count(True) == 1
        assert np.array_equal(np.logical_or.reduce(inside), mask)
    overlapping = [
        any((logits[a, f] > 0).any() for f in range(12) if (a, f) in logits and (b, f) in logits)
        for a, b in combinations([3, 9, 250], 2)
    ]
    assert all(overlapping)
    assert len(canvas.maps) == 3, "the one-frame object fits beside another or needs its own"


def test_disjoint_objects_share_a_map_and_big_ids_widen_it() -> None:
    pair = [ObjectPrompt.from_box(i, 0, BOX, (0, 1)) for i in (1, 300)]
    canvas = LabelCanvas((2, 8, 8), pair, 0, "keep")
    logits = np.full((2, 8, 8), -1, np.float32)
    logits[0, :4] = logits[1, 4:] = 1
    canvas.draw(0, [1, 300], logits)
    canvas.draw(1, [1, 300], logits[::-1])
    (only,) = canvas.maps
    assert only.dtype == np.uint16
    assert (only[0, :4] == 1).all()
    assert (only[0, 4:] == 300).all()
    assert (only[1, :4] == 300).all()


def test_an_object_moves_where_all_of_it_is_free() -> None:
    """On frame 1 object 3 meets object 1; it met object 2, of the second map, on frame 0."""
    three = [ObjectPrompt.from_box(i, 0, BOX, (0, 1)) for i in (1, 2, 3)]
    canvas = LabelCanvas((2, 8, 8), three, 0, "keep")
    logits = np.full((2, 3, 8, 8), -1, np.float32)
    logits[0, 0, :4] = logits[0, 1, 2:6] = logits[0, 2, 5:] = 1
    logits[1, 0, :4] = logits[1, 2, 3:] = 1
    for frame in (0, 1):
        canvas.draw(frame, [1, 2, 3], logits[frame])
    assert [np.unique(m).tolist() for m in canvas.maps] == [[0, 1], [0, 2], [0, 3]]
    for row, label_map in enumerate(canvas.maps):
        assert np.array_equal(label_map > 0, logits[:, row] > 0)


def test_without_objects_the_map_is_empty() -> None:
    (empty,) = LabelCanvas((2, 8, 8), [], 0, "largest_logit").maps
    assert (empty.dtype, empty.any()) == (np.uint8, False)


@pytest.mark.parametrize("object_id", [0, -1, 65536])
def test_ids_that_no_map_holds(object_id: int) -> None:
    with pytest.raises(UserError, match=f"object {object_id}: label maps hold ids from 1 to 65535"):
        LabelCanvas((1, 8, 8), [ObjectPrompt.from_box(object_id, 0, BOX, (0, 0))], 0, "keep")
