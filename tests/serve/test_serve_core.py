"""Sessions without the web: undo, ranges, cancelling, overlap, and equality with the tracker."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.object_prompts import SlicePrompt
from medsam2_ft.sam2_adapter import Sam2, build_model
from medsam2_ft.serve.backend import FakeBackend, Sam2Backend
from medsam2_ft.serve.core import SegmentationSession
from medsam2_ft.serve.history import Region
from medsam2_ft.serve.results import label_maps
from medsam2_ft.tracker import Tracker
from medsam2_ft.volume_prompts import frames_along

SHAPE = (6, 7, 8)
IMAGE = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


def box(index: int, *sides: float) -> SlicePrompt:
    return SlicePrompt(index, np.array(sides, np.float32))


def click(index: int, x: float, y: float, label: int) -> SlicePrompt:
    return SlicePrompt(index, None, np.array([[x, y]], np.float32), np.array([label], np.int32))


@pytest.fixture
def session() -> SegmentationSession:
    return SegmentationSession(FakeBackend(), IMAGE)


def copies(session: SegmentationSession) -> dict[int, NDArray[np.bool_]]:
    return {i: session.mask(i).copy() for i in (1, 2, 3)}


def apply(held: dict[int, NDArray[np.bool_]], regions: list[Region]) -> None:
    for region in regions:
        at = zip(region.offset, region.mask.shape, strict=True)
        held[region.object_id][tuple(slice(a, a + n) for a, n in at)] = region.mask


def equal(one: dict[int, NDArray[np.bool_]], other: dict[int, NDArray[np.bool_]]) -> bool:
    return all(np.array_equal(one[i], other[i]) for i in one)


actions = st.lists(
    st.tuples(
        st.sampled_from(["box", "click", "propagate", "remove", "object", "undo", "redo"]),
        st.integers(1, 3),
        st.integers(0, 2),
        st.integers(0, 5),
        st.integers(0, 1),
    ),
    max_size=15,
)


def act(session: SegmentationSession, what: str, i: int, axis: int, n: int, label: int) -> Any:
    if what == "box":
        return session.prompt(i, axis, box(n, label, 1, 3 + label, 4))
    if what == "click":
        return session.prompt(i, axis, click(n, 2, 2, label))
    if what == "remove":
        return session.remove_prompt(i, axis, n)
    if what == "object":
        return session.remove_object(i)
    if what == "propagate":
        frames = session.propagate(axis=axis, objects=[i])
        return [region for frame in frames for region in frame.regions]
    return session.undo() if what == "undo" else session.redo()


@settings(max_examples=60, deadline=None)
@given(actions)
def test_undo_and_redo_walk_the_whole_history(steps: list[tuple[str, int, int, int, int]]) -> None:
    """Every state comes back, and a client that applies the regions alone sees the same."""
    session = SegmentationSession(FakeBackend(), IMAGE)
    client = copies(session)
    history = [(copies(session), session.prompted)]
    at = 0
    for what, i, axis, n, label in steps:
        revision = session.history.revision
        try:
            apply(client, act(session, what, i, axis, n, label))
        except UserError:
            assert equal(client, copies(session))
            continue
        assert equal(client, copies(session))
        if what in ("undo", "redo"):
            at += 1 if what == "redo" else -1
        elif session.history.revision > revision:
            at += 1
            history[at:] = [(copies(session), session.prompted)]
        assert equal(copies(session), history[at][0])
        assert session.prompted == history[at][1]
    while session.history.can_undo:
        apply(client, session.undo())
        at -= 1
        assert equal(client, history[at][0])
        assert session.prompted == history[at][1]
    assert at == 0
    while session.history.can_redo:
        apply(client, session.redo())
        at += 1
        assert equal(client, history[at][0])
    assert at == len(history) - 1


def test_undo_of_a_slice_that_was_passed_twice(session: SegmentationSession) -> None:
    """Forward, slice 3 takes the mask of slice 2; backward, that of slice 4."""
    session.prompt(1, 0, box(2, 0, 0, 2, 2))
    session.prompt(1, 0, box(4, 1, 1, 5, 5))
    before = copies(session)
    frames = list(session.propagate(start=3, slices=(2, 5)))
    visits = [frame.regions for frame in frames if frame.index == 3]
    assert [len(regions) for regions in visits] == [1, 1]
    after = copies(session)
    session.undo()
    assert equal(copies(session), before)
    session.redo()
    assert equal(copies(session), after)


@pytest.mark.parametrize(
    ("direction", "expected"),
    [("forward", [2, 3, 4]), ("backward", [2, 1]), ("both", [2, 3, 4, 2, 1])],
)
def test_propagation_keeps_to_its_range(
    session: SegmentationSession,
    direction: Literal["forward", "backward", "both"],
    expected: list[int],
) -> None:
    session.prompt(1, 0, box(2, 1, 1, 3, 3))
    frames = list(session.propagate(slices=(1, 4), direction=direction))
    assert [frame.index for frame in frames] == expected
    assert [frame.done for frame in frames] == list(range(1, len(expected) + 1))
    assert {frame.total for frame in frames} == {len(expected)}
    assert set(np.flatnonzero(session.mask(1).any(axis=(1, 2)))) == set(expected)


@pytest.mark.parametrize("cancel_at", range(5))
def test_a_cancelled_propagation_keeps_what_it_found_as_one_step(
    session: SegmentationSession, cancel_at: int
) -> None:
    session.prompt(1, 0, box(0, 1, 1, 3, 3))
    before = copies(session)
    passed: list[int] = []
    frames = session.propagate(direction="forward", cancelled=lambda: len(passed) >= cancel_at)
    for frame in frames:
        passed.append(frame.index)
    assert passed == list(range(cancel_at))
    assert session.mask(1).any(axis=(1, 2)).sum() == max(1, cancel_at)
    if cancel_at > 1:
        session.undo()
        assert equal(before, copies(session))


@pytest.mark.parametrize(
    "how",
    [{"objects": [2]}, {"axis": 1}, {"slices": (3, 4)}, {"slices": (0, 6)}, {"start": 9},
     {"slices": (3, 2)}],
)  # fmt: skip
def test_a_propagation_that_cannot_be_is_refused(
    session: SegmentationSession, how: dict[str, Any]
) -> None:
    session.prompt(1, 0, box(2, 1, 1, 3, 3))
    with pytest.raises(UserError):
        session.propagate(**how)


def test_objects_may_overlap_and_a_single_map_gives_the_smaller_id_the_voxel(
    session: SegmentationSession,
) -> None:
    session.prompt(2, 0, box(0, 0, 0, 3, 3))
    session.prompt(1, 0, box(0, 2, 2, 5, 5))
    (single,) = label_maps(session, keep=False)
    first, second = label_maps(session, keep=True)
    assert (single[0, 2, 2], single[0, 0, 0], single[0, 5, 5]) == (1, 2, 1)
    assert np.array_equal(first == 1, session.mask(1))
    assert np.array_equal(second == 2, session.mask(2))


def test_too_many_objects_are_refused() -> None:
    session = SegmentationSession(FakeBackend(), IMAGE, max_objects=1)
    session.prompt(1, 0, box(0, 0, 0, 3, 3))
    with pytest.raises(UserError, match="limit"):
        session.prompt(2, 0, box(0, 0, 0, 3, 3))


@pytest.fixture(scope="module")
def model() -> Sam2:
    torch.manual_seed(3)
    model = build_model("tiny_test", image_size=64, weights="random")
    with torch.no_grad():
        model.core.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    return model


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("strategy", ["box", "memory"])
def test_a_real_model_gives_what_the_tracker_gives(
    model: Sam2, axis: int, strategy: Literal["box", "memory"]
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (10, 40, 36), dtype=np.uint8)
    session = SegmentationSession(
        Sam2Backend(model, "box", torch.float32), image, strategy=strategy
    )
    tracker = Tracker(model, frames_along(image, axis), strategy=strategy)
    said = [box(4, 2, 3, 8, 7), click(4, 6, 6, 1)]
    for prompt in said:
        session.prompt(1, axis, prompt)
        logits = tracker.prompt(1, prompt)
    assert np.array_equal(frames_along(session.mask(1), axis)[4], (logits > 0).numpy())
    expected = {4: (logits > 0).numpy()}
    for reverse in (False, True):
        for found in tracker.propagate(reverse=reverse, start=4, stop=2 if reverse else 8):
            expected[found.frame] = (found.logits[0] > 0).numpy()
    list(session.propagate(axis=axis, slices=(2, 8)))
    corrected = tracker.prompt(1, click(6, 1, 1, 0))
    expected[6] = (corrected > 0).numpy()
    session.prompt(1, axis, click(6, 1, 1, 0))
    masks = frames_along(session.mask(1), axis)
    assert sum(mask.any() and not mask.all() for mask in expected.values()) >= 3
    for index, mask in expected.items():
        assert np.array_equal(masks[index], mask), index


def test_what_is_drawn_by_hand_is_one_step_and_points_correct_it(
    session: SegmentationSession,
) -> None:
    session.prompt(1, 0, box(2, 1, 1, 4, 4))
    before = session.mask(1).copy()
    drawn = np.zeros((2, 7, 8), bool)
    drawn[0, 0, 0] = drawn[1, 5:7, 6:8] = True
    session.edit([Region(1, (2, 0, 0), drawn), Region(2, (0, 0, 0), np.ones((1, 2, 2), bool))])
    assert np.array_equal(session.mask(1)[2:4], drawn)
    assert session.objects == (1, 2)
    assert len(session.prompted) == 1
    session.prompt(1, 0, click(3, 1, 1, 1))
    expected = drawn[1].copy()
    expected[0:3, 0:3] = True
    assert np.array_equal(session.mask(1)[3], expected)
    session.undo()
    assert np.array_equal(session.mask(1)[3], drawn[1])
    session.undo()
    assert np.array_equal(session.mask(1), before)
    assert not session.mask(2).any()
    session.redo()
    session.redo()
    assert np.array_equal(session.mask(1)[3], expected)


def test_an_edit_outside_the_volume_changes_nothing(session: SegmentationSession) -> None:
    good, bad = np.ones((1, 1, 1), bool), np.ones((2, 2, 2), bool)
    with pytest.raises(UserError, match="within"):
        session.edit([Region(1, (0, 0, 0), good), Region(1, (5, 0, 0), bad)])
    assert not session.mask(1).any()
    assert not session.history.can_undo


def test_a_point_that_is_refused_leaves_no_trace_of_the_drawing(
    session: SegmentationSession,
) -> None:
    session.edit([Region(1, (2, 0, 0), np.ones((1, 3, 3), bool))])
    with pytest.raises(UserError):
        session.prompt(1, 0, click(2, np.nan, 1, 1))
    assert session.prompted == ()
