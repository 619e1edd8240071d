"""Interactive sessions: order, corrections, taking back, limits. Parity is in parity/."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medsam2_ft import frame_encoder
from medsam2_ft.errors import UserError
from medsam2_ft.follow_memory import MemoryFollower
from medsam2_ft.object_prompts import SlicePrompt
from medsam2_ft.sam2_adapter import Sam2, build_model
from medsam2_ft.tracker import Tracker

Strategy = Literal["box", "memory"]
both = pytest.mark.parametrize("strategy", ["box", "memory"])
BOX = np.array([5, 8, 30, 33], np.float32)


@pytest.fixture(scope="module")
def model() -> Sam2:
    torch.manual_seed(3)
    model = build_model("tiny_test", image_size=64, weights="random")
    with torch.no_grad():
        model.core.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    return model


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 50), dtype=np.uint8)


@pytest.fixture
def session(model: Sam2, frames: NDArray[np.uint8]) -> Callable[[Strategy], Tracker]:
    def start(strategy: Strategy) -> Tracker:
        tracker = Tracker(model, frames, strategy=strategy)
        tracker.prompt(1, SlicePrompt(10, BOX))
        return tracker

    return start


def click(frame: int, x: float, y: float, label: int = 1) -> SlicePrompt:
    return SlicePrompt(frame, None, np.array([[x, y]], np.float32), np.array([label], np.int32))


def results(sweep: Any) -> dict[int, torch.Tensor]:
    return {masks.frame: masks.logits for masks in sweep}


@both
def test_sweeps_visit_every_slice_in_order(
    strategy: Strategy, session: Callable[[Strategy], Tracker]
) -> None:
    tracker = session(strategy)
    assert list(results(tracker.propagate())) == list(range(10, 30))
    assert list(results(tracker.propagate(reverse=True))) == list(range(10, -1, -1))
    assert list(results(tracker.propagate(start=12, stop=15))) == [12, 13, 14, 15]
    assert list(results(tracker.propagate(start=12, stop=9, reverse=True))) == [12, 11, 10, 9]


@both
def test_a_prompted_slice_keeps_what_the_prompt_gave(
    strategy: Strategy, session: Callable[[Strategy], Tracker]
) -> None:
    tracker = session(strategy)
    list(tracker.propagate())
    corrected = tracker.prompt(1, click(14, 40, 30))
    again = results(tracker.propagate())
    assert torch.equal(again[14][0], corrected)


@both
def test_a_sweep_from_a_correction_equals_one_that_passes_it(
    strategy: Strategy, model: Sam2, frames: NDArray[np.uint8]
) -> None:
    """Going on from the corrected slice alone is what an impatient user does."""
    trackers = [Tracker(model, frames, strategy=strategy) for _ in range(2)]
    for tracker in trackers:
        tracker.prompt(1, SlicePrompt(10, BOX))
        list(tracker.propagate())
        tracker.prompt(1, click(14, 40, 30))
    whole = results(trackers[0].propagate(start=10))
    tail = results(trackers[1].propagate(start=14))
    if strategy == "box":
        assert all(torch.equal(tail[frame], whole[frame]) for frame in tail)
    else:  # slices 11-13 were tracked before the correction: other memory, near masks
        assert tail.keys() == set(range(14, 30))
        assert torch.equal(tail[14], whole[14])


@both
def test_objects_are_independent(
    strategy: Strategy, session: Callable[[Strategy], Tracker]
) -> None:
    alone, together = session(strategy), session(strategy)
    together.prompt(2, click(5, 20, 20))
    assert together.object_ids == (1, 2)
    expected = results(alone.propagate(start=10))
    for frame, logits in results(together.propagate(start=10)).items():
        assert (logits[0] - expected[frame][0]).abs().max() < 1e-4
    only = next(iter(together.propagate(object_ids=[2])))
    assert (only.frame, only.object_ids) == (5, (2,))


@both
def test_taking_back(strategy: Strategy, session: Callable[[Strategy], Tracker]) -> None:
    tracker = session(strategy)
    before = results(tracker.propagate())
    tracker.prompt(1, click(14, 40, 30, 0))
    tracker.clear(1, 14)
    tracker.clear(1, 3)  # was never prompted
    after = results(tracker.propagate())
    assert all((before[f] - after[f]).abs().max() < 1e-4 for f in before)
    tracker.clear(1, 10)
    assert tracker.object_ids == ()
    with pytest.raises(UserError, match="prompt an object"):
        tracker.propagate()
    fresh = session(strategy)
    assert torch.equal(
        tracker.prompt(1, SlicePrompt(20, BOX)), fresh.prompt(2, SlicePrompt(20, BOX))
    )


@both
def test_cancelling_keeps_what_was_found(
    strategy: Strategy, session: Callable[[Strategy], Tracker]
) -> None:
    tracker = session(strategy)
    asked: list[bool] = []

    def cancelled() -> bool:
        asked.append(True)
        return len(asked) > 4

    assert list(results(tracker.propagate(cancelled=cancelled))) == [10, 11, 12, 13]
    resumed = results(tracker.propagate(start=13))
    assert list(resumed) == list(range(13, 30))


def test_what_is_remembered_stays_within_the_limit(model: Sam2, frames: NDArray[np.uint8]) -> None:
    one_frame = 64 * 4 * 4 * 2 + 16 * 16 * 4
    tracker = Tracker(model, frames, strategy="memory", max_bytes=6 * one_frame)
    tracker.prompt(1, SlicePrompt(10, BOX))
    follower = tracker._follower
    assert isinstance(follower, MemoryFollower)
    for masks in tracker.propagate():
        assert follower.banks[1].nbytes <= 6 * one_frame
        assert torch.isfinite(masks.logits).all()
    assert set(follower.banks[1].frames) == set(range(25, 30))
    tracker.prompt(1, click(12, 40, 30))  # forgotten: starts afresh
    assert len(results(tracker.propagate())) == 20


def test_a_mask_that_is_empty_from_the_start_stays_empty(
    model: Sam2, frames: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medsam2_ft.features import Decoded

    def nothing(self: Sam2, encoding: Any, prompts: Any) -> Decoded:
        scores = torch.zeros(len(prompts), 1)
        return Decoded(torch.full((len(prompts), 1, 16, 16), -1.0), scores, scores)

    monkeypatch.setattr(Sam2, "decode_prompts", nothing)
    tracker = Tracker(model, frames, strategy="box")
    tracker.prompt(1, click(10, 20, 20))
    assert all((logits < 0).all() for logits in results(tracker.propagate()).values())


def test_a_slice_is_encoded_once_for_several_prompts(
    model: Sam2, frames: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = Sam2.encode

    def encode(self: Sam2, images: torch.Tensor) -> Any:
        calls.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Sam2, "encode", encode)
    tracker = Tracker(model, frames, strategy="box")
    for x in (10, 20, 30):
        tracker.prompt(x, click(10, x, 20))
    assert calls == [1]
    monkeypatch.setattr(frame_encoder, "RECENT_BYTES", 0)
    tracker.prompt(4, click(11, 10, 20))
    tracker.prompt(4, click(11, 12, 20))
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        (SlicePrompt(30, BOX), "slice 30 does not lie within 0-29"),
        (SlicePrompt(3), "is empty; give a box or points"),
        (SlicePrompt(3, np.array([60, 8, 70, 33], np.float32)), "is not a box inside the image"),
        (SlicePrompt(3, np.array([np.nan, 8, 70, 33], np.float32)), "is not a box inside"),
        (click(3, 50, 10), "point 50,10 with label 1 does not lie in the image of 50 x 40"),
        (click(3, 10, 10, 2), "its label is neither 1"),
        (SlicePrompt(3, mask=np.zeros((40, 50), bool)), "is empty or not of the image's 40 x 50"),
        (SlicePrompt(3, mask=np.ones((50, 40), bool)), r"\(50, 40\) is empty or not"),
        (SlicePrompt(3, BOX, mask=np.ones((40, 50), bool)), "give one of them"),
    ],
)
def test_bad_prompts(prompt: SlicePrompt, problem: str, session: Callable[..., Tracker]) -> None:
    tracker = session("box")
    with pytest.raises(UserError, match=problem):
        tracker.prompt(1, prompt)
    assert list(tracker.prompts[1]) == [10]


def test_bad_ranges(session: Callable[..., Tracker]) -> None:
    with pytest.raises(UserError, match="slice 30 does not lie within 0-29"):
        session("box").propagate(start=30)
