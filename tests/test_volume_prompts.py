"""Prompts from boxes and from labels, against plain computations on the full arrays."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from synthetic import make_volume

from medsam2_ft.errors import UserError
from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.objects import find_targets
from medsam2_ft.types import Case, LabelVolume
from medsam2_ft.volume_prompts import (
    empty_labels,
    frames_along,
    prompts_from_box3d,
    prompts_from_labels,
    stored_prompts,
)


def leaving_and_returning() -> NDArray[np.uint8]:
    """Label 4 on slices 1, 3 and 8 of 9, largest on 8; label 9 on slice 2 alone."""
    labels = np.zeros((9, 64, 128), np.uint8)
    labels[1, 30:40, 20:30] = 4
    labels[3, 10:20, 50:70] = 4
    labels[3, 40:44, 90:101] = 4
    labels[8, 30:60, 20:60] = 4
    labels[2, 5, 6] = 9
    return labels


def box_of(prompt: ObjectPrompt) -> NDArray[np.float32]:
    (part,) = prompt.slices
    assert part.box_xyxy is not None
    return part.box_xyxy


def test_an_object_that_leaves_and_returns_is_prompted_where_it_is() -> None:
    first, second = prompts_from_labels([leaving_and_returning()], margin_px=8.0)
    assert (first.object_id, first.frame, first.z_range) == (4, 3, (1, 8))
    # One box around both pieces; 8 px at 1024 are 0.5 rows of 64 and 1 column of 128.
    np.testing.assert_allclose(box_of(first), [49.0, 9.5, 101.0, 43.5])
    assert (second.object_id, second.frame, second.z_range) == (9, 2, (2, 2))
    np.testing.assert_allclose(box_of(second), [5.0, 4.5, 7.0, 5.5])


def test_the_full_range_prompts_the_same() -> None:
    ours = prompts_from_labels([leaving_and_returning()], z_range="full")
    plain = prompts_from_labels([leaving_and_returning()])
    assert {p.z_range for p in ours} == {(0, 8)}
    for one, other in zip(ours, plain, strict=True):
        assert one.frame == other.frame
        assert np.array_equal(box_of(one), box_of(other))


def test_the_papers_two_ways() -> None:
    labels = [leaving_and_returning()]
    box = prompts_from_labels(labels, protocol="paper", strategy="box", margin_px=0.0)[0]
    assert box.frame == 3
    np.testing.assert_allclose(box_of(box), [20, 30, 59, 59])  # of slice 8, the largest
    mask = prompts_from_labels(labels, protocol="paper", strategy="memory", margin_px=0.0)[0]
    assert mask.frame == (8 - 1 + 1) // 2 + 1
    np.testing.assert_allclose(box_of(mask), [20, 10, 100, 59])  # around all slices
    single = prompts_from_labels(labels, protocol="paper", strategy="memory", margin_px=0.0)[1]
    assert (single.frame, single.z_range) == (2, (2, 2))
    with pytest.raises(UserError, match="boxes, not with points"):
        prompts_from_labels(labels, protocol="paper", kind="points")


def test_noise_depends_on_seed_case_and_label_alone() -> None:
    labels = LabelVolume((leaving_and_returning(),))

    def boxes(**options: Any) -> NDArray[np.float32]:
        options = {"box_noise_px": 20, "margin_px": 0.0, "name": "a", **options}
        return np.stack([box_of(p) for p in prompts_from_labels(labels, **options)])

    assert np.array_equal(boxes(), boxes())
    others = (boxes(name="b"), boxes(seed=1), boxes(box_noise_px=0))
    assert all((boxes()[0] != other[0]).any() for other in others)
    alone = LabelVolume((np.where(leaving_and_returning() == 4, 4, 0).astype(np.uint8),))
    (same,) = prompts_from_labels(alone, box_noise_px=20, margin_px=0.0, name="a")
    assert np.array_equal(box_of(same), boxes()[0]), "other labels must not matter"
    case = Case("a", np.zeros((9, 64, 128), np.uint8), labels.maps)
    stored = prompts_from_labels(case, box_noise_px=20, margin_px=0.0)
    assert np.array_equal(box_of(stored[0]), boxes()[0])


def test_noise_is_whole_pixels_of_1024_both_ways_and_stays_inside() -> None:
    labels = np.zeros((1, 128, 256), np.uint8)
    labels[0, 40:80, 100:200] = 1
    tight, shifts = np.array([100, 40, 199, 79]), []
    for seed in range(300):
        (prompt,) = prompts_from_labels([labels], box_noise_px=6, margin_px=0.0, seed=seed)
        shifts.append((box_of(prompt) - tight) * [4, 8, 4, 8])
    moved = np.round(shifts)
    np.testing.assert_allclose(shifts, moved, atol=1e-3)
    for side in moved.T:
        assert set(side.astype(int)) == set(range(-6, 7))
    corner = np.zeros((1, 128, 256), np.uint8)
    corner[0, :3, 250:] = 1
    for seed in range(50):
        (prompt,) = prompts_from_labels([corner], box_noise_px=200, margin_px=0.0, seed=seed)
        x0, y0, x1, y1 = box_of(prompt)
        assert 0 <= x0 <= 251.5, "inward by a quarter of the side at most"
        assert 253 <= x1 <= 255
        assert 0 <= y0 <= 0.51
        assert 1.49 <= y1 <= 127


def test_a_one_pixel_object_keeps_a_box() -> None:
    labels = np.zeros((1, 64, 64), np.uint8)
    labels[0, 63, 0] = 1
    for noise in (0, 30):
        (prompt,) = prompts_from_labels([labels], margin_px=0.0, box_noise_px=noise)
        x0, y0, x1, y1 = box_of(prompt)
        assert 0 <= x0 <= x1 <= 63
        assert 0 <= y0 <= y1 <= 63
        assert x0 == 0
        assert y1 == 63


def test_points_lie_deepest_in_the_largest_piece() -> None:
    labels = leaving_and_returning()
    first, second = prompts_from_labels([labels], kind="points")
    (part,) = first.slices
    x, y = part.points_xy[0].astype(int)
    assert part.point_labels.tolist() == [1]
    drawn = np.pad((labels[3] == 4).astype(np.uint8), 1)
    drawn[30:] = 0  # without the smaller piece
    depth = cv2.distanceTransform(drawn, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    assert depth[y, x] == depth.max() > 4
    assert second.slices[0].points_xy.tolist() == [[6.0, 5.0]]


def test_a_point_at_the_border_keeps_away_from_it() -> None:
    labels = np.zeros((1, 20, 20), np.uint8)
    labels[0, :, :7] = 1
    (prompt,) = prompts_from_labels([labels], kind="points")
    assert prompt.slices[0].points_xy[0, 0] == 3


def test_masks_are_the_labelled_slice() -> None:
    labels = leaving_and_returning()
    first, _ = prompts_from_labels([labels], kind="mask")
    mask = first.slices[0].mask
    assert mask is not None
    assert np.array_equal(mask, labels[3] == 4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_another_axis_has_the_boxes_of_its_own_slices(axis: int) -> None:
    _, labels = make_volume((12, 40, 32), seed=2)
    for prompt in prompts_from_labels([labels], axis=axis, margin_px=0.0):
        mask = np.moveaxis(labels == prompt.object_id, axis, 0)
        frames, rows, columns = np.nonzero(mask)
        assert prompt.z_range == (frames.min(), frames.max())
        here = frames == prompt.frame
        expected = [
            columns[here].min(), rows[here].min(), columns[here].max(), rows[here].max()
        ]  # fmt: skip
        np.testing.assert_allclose(box_of(prompt), expected, atol=1e-4)
    with pytest.raises(UserError, match="axis 3"):
        frames_along(labels, 3)


def test_empty_labels_have_no_prompt_and_are_listed() -> None:
    labels = LabelVolume((leaving_and_returning(),), {4: "a", 9: "b", 5: "gone", 2: "too"})
    assert [p.object_id for p in prompts_from_labels(labels)] == [4, 9]
    assert empty_labels(labels) == (2, 5)
    bare = Case("bare", np.zeros((2, 8, 8), np.uint8))
    assert prompts_from_labels(bare) == []
    assert empty_labels(bare) == ()
    assert prompts_from_labels([np.zeros((2, 8, 8), np.uint16)]) == []


def test_overlapping_objects_are_prompted_from_their_own_maps() -> None:
    first = leaving_and_returning()
    second = np.zeros_like(first, np.uint16)
    second[3, 10:30, 50:60] = 300
    prompts = prompts_from_labels([first, second], margin_px=0.0)
    assert [p.object_id for p in prompts] == [4, 9, 300]
    np.testing.assert_allclose(box_of(prompts[2]), [50, 10, 59, 29])


def test_targets_know_their_truth_and_regions_their_union() -> None:
    labels = leaving_and_returning()
    case = Case(
        "a", labels, (labels,), label_names={4: "four"}, regions={"all": (4, 9), "no": (7,)}
    )
    targets = find_targets(case, regions=True)
    assert [(t.label, t.name) for t in targets] == [(4, "four"), (9, "9"), (-1, "all")]
    assert np.array_equal(targets[0].truth(), labels[1:] == 4)
    assert np.array_equal(targets[2].truth(), labels[1:] > 0)
    assert targets[2].prompt.object_id == -1


@pytest.mark.parametrize(
    ("box", "frame", "z_range"),
    [
        ((3, 4, 2, 10, 12, 7), 4, (2, 7)),
        ((3, 4, 5, 10, 12, 5), 5, (5, 5)),
        ((3, 4, -3, 10, 12, 30), 4, (0, 9)),
        ((3, 4, 1.6, 10, 12, 7.4), 4, (2, 7)),
    ],
)
def test_a_3d_box_lies_on_its_middle_slice(
    box: tuple[float, ...], frame: int, z_range: tuple[int, int]
) -> None:
    prompt = prompts_from_box3d(np.array(box, np.float32), 8, depth=10)
    assert (prompt.object_id, prompt.frame, prompt.z_range) == (8, frame, z_range)
    assert box_of(prompt).tolist() == [3, 4, 10, 12]


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((3, 4, 10, 10, 12, 12), "beyond slices 0-9"),
        ((3, 4, -5, 10, 12, -1), "beyond slices 0-9"),
        ((3, 4, 5, 10, 12, 4), "not above"),
        ((11, 4, 5, 10, 12, 6), "not above"),
        ((3, 4, np.nan, 10, 12, 6), "finite"),
    ],
)
def test_3d_boxes_that_are_none(box: tuple[float, ...], words: str) -> None:
    with pytest.raises(UserError, match=f"object 8: box .*{words}"):
        prompts_from_box3d(np.array(box, np.float32), 8, depth=10)


def test_stored_boxes_become_prompts() -> None:
    image = np.zeros((6, 20, 20), np.uint8)
    boxes = np.array([[1, 2, 1, 8, 9, 4], [0, 0, 5, 3, 3, 5]], np.float32)
    case = Case("a", image, boxes=boxes, box_labels=(7, 2))
    first, second = stored_prompts(case)
    assert (first.object_id, first.frame, first.z_range) == (7, 2, (1, 4))
    assert (second.object_id, second.frame, second.z_range) == (2, 5, (5, 5))
    flat = replace(case, image=image[:1], boxes=boxes[:, [0, 1, 3, 4]])
    assert [p.z_range for p in stored_prompts(flat)] == [(0, 0), (0, 0)]
    with pytest.raises(UserError, match="a: 2D boxes in a volume of 6 slices"):
        stored_prompts(replace(flat, image=image))
    assert stored_prompts(replace(case, boxes=None, box_labels=())) == []
