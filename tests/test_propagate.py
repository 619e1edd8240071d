"""Propagation: order, ranges, memory, cancelling, modes and bad prompts. Parity is in parity/."""

import gc
import weakref
from collections import Counter
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medsam2_ft import feature_file
from medsam2_ft import frame_encoder as module
from medsam2_ft.errors import UserError
from medsam2_ft.follow_memory import MemoryFollower
from medsam2_ft.propagate import ObjectPrompt, propagate
from medsam2_ft.sam2_adapter import Sam2, build_model

STRATEGIES: tuple[Literal["box", "memory"], ...] = ("box", "memory")


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


def prompt(object_id: int, frame: int, z_range: tuple[int, int]) -> ObjectPrompt:
    box = np.array([5 + object_id, 8, 30 + object_id, 33], dtype=np.float32)
    return ObjectPrompt.from_box(object_id, frame, box, z_range)


PROMPTS = [prompt(i, 10, (4, 20)) for i in range(5)] + [
    prompt(5, 2, (2, 2)),
    prompt(6, 25, (1, 29)),
    prompt(7, 10, (10, 12)),
]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_frame_of_every_range_comes_once_forward_then_backward(
    strategy: Literal["box", "memory"], model: Sam2, frames: NDArray[np.uint8]
) -> None:
    results = list(propagate(model, frames, PROMPTS, strategy=strategy))
    visits = Counter((i, result.frame) for result in results for i in result.object_ids)
    expected = {(p.object_id, f) for p in PROMPTS for f in range(p.z_range[0], p.z_range[1] + 1)}
    assert set(visits) == expected
    assert set(visits.values()) == {1}
    order = [result.frame for result in results]
    turn = order.index(max(order)) + 1
    assert order[:turn] == sorted(order[:turn])
    assert order[turn:] == sorted(order[turn:], reverse=True)
    for result in results:
        assert result.logits.shape == (len(result.object_ids), 40, 50)
        assert result.logits.dtype == torch.float32
        assert not result.logits.requires_grad


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_objects_do_not_influence_each_other(
    strategy: Literal["box", "memory"], model: Sam2, frames: NDArray[np.uint8]
) -> None:
    together: dict[tuple[int, int], torch.Tensor] = {}
    for result in propagate(model, frames, PROMPTS, strategy=strategy):
        together |= {
            (i, result.frame): m for i, m in zip(result.object_ids, result.logits, strict=True)
        }
    for single in (PROMPTS[4], PROMPTS[6]):
        for result in propagate(model, frames, [single], strategy=strategy):
            difference = together[single.object_id, result.frame] - result.logits[0]
            assert difference.abs().max() <= 1e-5 * result.logits.std() + 1e-5


def test_objects_with_equal_memory_share_passes(
    model: Sam2, frames: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kinds of objects in turn, three and two of them, take two passes a frame."""
    interleaved = [prompt(i, 10 + i % 2, (10, 14) if i % 2 else (9, 14)) for i in range(5)]
    sizes: list[tuple[int, int]] = []
    original = Sam2.track

    def track(self: Sam2, encoding: Any, frame: int, *args: Any, **options: Any) -> Any:
        tracked = original(self, encoding, frame, *args, **options)
        sizes.append((frame, len(tracked.pointer)))
        return tracked

    monkeypatch.setattr(Sam2, "track", track)
    list(propagate(model, frames, interleaved, strategy="memory"))
    later = [sorted(n for f, n in sizes if f == frame) for frame in (11, 12, 13, 14)]
    assert later == [[2, 3]] * 4


def test_no_prompts_yield_nothing(model: Sam2, frames: NDArray[np.uint8]) -> None:
    assert list(propagate(model, frames, [], strategy="box")) == []


def test_colour_frames_are_accepted(model: Sam2) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    colour.flags.writeable = False
    assert len(list(propagate(model, colour, [prompt(1, 1, (0, 2))], strategy="box"))) == 3


class CountedEncoder:
    """Counts encoder passes of a model."""

    def __init__(self, model: Sam2, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        original = Sam2.encode

        def encode(this: Sam2, images: torch.Tensor) -> Any:
            self.calls += 1
            assert len(images) == 1
            return original(this, images)

        monkeypatch.setattr(Sam2, "encode", encode)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_frame_is_encoded_once_for_all_objects(
    strategy: Literal["box", "memory"],
    model: Sam2,
    frames: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = CountedEncoder(model, monkeypatch)
    list(propagate(model, frames, PROMPTS, strategy=strategy))
    assert counter.calls == len(set(range(1, 30)))


def test_features_that_wait_for_the_way_back_are_not_held_in_memory(
    model: Sam2, frames: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Any] = []
    waiting: list[int] = []
    gc.freeze()  # collecting looks at what is made from here on, not at every library
    original = module.PlannedEncoder.__call__

    def watched(self: Any, frame: int) -> Any:
        encoding = original(self, frame)
        held.append(weakref.ref(encoding.levels[0]))
        waiting.append(len(self.waiting))
        gc.collect()
        assert sum(reference() is not None for reference in held) <= 2  # this frame's and the last
        return encoding

    monkeypatch.setattr(module.PlannedEncoder, "__call__", watched)
    list(propagate(model, frames, PROMPTS, strategy="box"))
    gc.unfreeze()
    assert max(waiting) > 10
    assert waiting[-1] == 0


def test_without_room_for_features_frames_are_encoded_again(
    model: Sam2, frames: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(propagate(model, frames, PROMPTS, strategy="box"))
    counter = CountedEncoder(model, monkeypatch)
    monkeypatch.setattr(feature_file, "SHARE_OF_FREE_DISK", 0.0)
    actual = list(propagate(model, frames, PROMPTS, strategy="box"))
    assert counter.calls == len(actual) > len({result.frame for result in actual})
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours.logits, theirs.logits)


def test_memory_does_not_grow_with_depth(model: Sam2, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    original = MemoryFollower.follow

    def watched(self: MemoryFollower, *args: Any) -> torch.Tensor:
        logits = original(self, *args)
        (bank,) = self.banks.values()
        held.append(
            sum(
                entry.pointer.nbytes + (0 if entry.features is None else entry.features.nbytes)
                for entry in bank.frames.values()
            )
        )
        return logits

    monkeypatch.setattr(MemoryFollower, "follow", watched)
    deep = np.zeros((70, 20, 20), dtype=np.uint8)
    for reset in (True, False):
        held.clear()
        options = {"strategy": "memory", "reset_between_directions": reset}
        list(propagate(model, deep, [prompt(1, 35, (0, 69))], **options))
        pointer, features = 256 * 4, 64 * 4 * 4 * 2
        assert max(held) <= (1 if reset else 2) * (15 * pointer + 6 * features)
        assert held[33] == held[30]  # forward, long after the start
        assert held[-1] == held[-10]  # backward


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_cancelling_stops_between_frames(
    strategy: Literal["box", "memory"], model: Sam2, frames: NDArray[np.uint8]
) -> None:
    seen: list[int] = []
    iterator = propagate(
        model, frames, PROMPTS, strategy=strategy, cancelled=lambda: len(seen) == 4
    )
    for result in iterator:
        seen.append(result.frame)
    assert len(seen) == 4


def test_modes_of_the_caller_are_left_alone_at_every_yield(
    model: Sam2, frames: NDArray[np.uint8]
) -> None:
    expected = [r.logits for r in propagate(model, frames, PROMPTS[:1], strategy="memory")]
    model.core.memory_attention.train()  # holds dropout; the rest stays in evaluation mode
    try:
        flags = [m.training for m in model.modules()]
        actual = []
        for result in propagate(model, frames, PROMPTS[:1], strategy="memory"):
            assert torch.is_grad_enabled()
            assert not torch.is_autocast_enabled("cpu")
            assert [m.training for m in model.modules()] == flags
            actual.append(result.logits)
    finally:
        model.eval()
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bfloat16_is_near_float32(
    strategy: Literal["box", "memory"], model: Sam2, frames: NDArray[np.uint8]
) -> None:
    single = [prompt(1, 10, (10, 10))]
    (exact,) = propagate(model, frames, single, strategy=strategy)
    (half,) = propagate(model, frames, single, strategy=strategy, dtype=torch.bfloat16)
    span = exact.logits.max() - exact.logits.min()
    assert 0 < (half.logits - exact.logits).abs().max() < 0.1 * span


def test_training_continues_after_propagation(model: Sam2, frames: NDArray[np.uint8]) -> None:
    list(propagate(model, frames, [prompt(1, 1, (0, 2))], strategy="memory"))
    tokens = model.decode_all(
        model.encode(torch.zeros(1, 3, 64, 64)),
        torch.zeros(1, dtype=torch.int64),
        torch.tensor([[1.0, 1, 30, 30]]),
    )
    tokens.mask_logits.sum().backward()
    model.zero_grad()


def _mask_logits(model: Sam2, boxes: torch.Tensor, empty: bool) -> torch.Tensor:
    """A stand-in decoder's answer: the boxes themselves, or nothing."""
    n, side = len(boxes), model.image_size // 4
    logits = torch.full((n, 1, side, side), -5.0)
    for row, (x0, y0, x1, y1) in enumerate((boxes / 4).round().int().tolist()):
        if not empty:
            logits[row, :, y0 : y1 + 1, x0 : x1 + 1] = 5.0
    return logits


def test_an_empty_mask_leaves_the_last_box_and_the_margin_is_scaled(
    model: Sam2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames 12 and 13 come out empty; on frame 14 the last box is asked again."""
    asked: list[list[float]] = []

    def decode(self: Sam2, encoding: Any, index: torch.Tensor, boxes: torch.Tensor) -> Any:
        from medsam2_ft.features import Decoded

        asked.extend(boxes.tolist())
        empty = len(asked) in (3, 4)
        scores = torch.zeros(len(boxes), 1)
        return Decoded(_mask_logits(self, boxes, empty), scores, scores)

    def decode_prompts(self: Sam2, encoding: Any, prompts: Any) -> Any:
        return decode(self, encoding, torch.zeros(1), prompts.points_xy.reshape(-1, 4))

    monkeypatch.setattr(Sam2, "decode_prompts", decode_prompts)
    monkeypatch.setattr(Sam2, "decode", decode)
    volume = np.zeros((20, 64, 64), dtype=np.uint8)
    box = np.array([20, 24, 40, 44], dtype=np.float32)
    single = [ObjectPrompt.from_box(1, 10, box, (9, 15))]
    list(propagate(model, volume, single, strategy="box", margin_px=16.0))
    assert asked[0] == box.tolist()
    assert asked[2] == asked[3] == asked[4]  # frames 12, 13, 14
    assert asked[5] != asked[4]  # the mask of frame 14 moves the box again
    assert asked[6] == asked[1]  # backward starts from the prompted frame's mask
    # Native size is input size here; the mask's tight box plus 16 pixels of 1024, one of 64.
    native = torch.nn.functional.interpolate(
        _mask_logits(model, torch.tensor([asked[0]]), False), (64, 64), mode="bilinear"
    )[0, 0]
    rows, columns = torch.where(native > 0)
    tight = [columns.min(), rows.min(), columns.max(), rows.max()]
    assert asked[1] == [float(side) + d for side, d in zip(tight, (-1, -1, 1, 1), strict=True)]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([prompt(1, 30, (0, 29))], "frame 30"),
        ([prompt(1, 5, (6, 9))], "range 6-9"),
        ([prompt(1, 5, (-1, 9))], "range -1-9"),
        ([prompt(1, 5, (0, 30))], "frames 0-29"),
        ([prompt(1, 5, (0, 9)), prompt(1, 6, (0, 9))], "more than once"),
        ([ObjectPrompt.from_box(4, 5, np.array([9, 0, 3, 5], np.float32), (0, 9))], "object 4"),
        (
            [ObjectPrompt.from_box(4, 5, np.array([0, 0, np.nan, 5], np.float32), (0, 9))],
            "object 4",
        ),
        (
            [ObjectPrompt.from_box(4, 5, np.array([0, 0, np.inf, 5], np.float32), (0, 9))],
            "object 4",
        ),
        ([ObjectPrompt.from_box(4, 5, np.array([50, 0, 60, 5], np.float32), (0, 9))], "50 x 40"),
    ],
)
def test_bad_prompts_are_refused_before_anything_runs(
    bad: list[ObjectPrompt], words: str, model: Sam2, frames: NDArray[np.uint8]
) -> None:
    with pytest.raises(UserError, match=words):
        propagate(model, frames, bad, strategy="box")
