"""The one-shot loop with models that know slices only: order, encoder passes, memory, errors."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from torch import Tensor, nn

from medsam2_ft.errors import UserError
from medsam2_ft.object_prompts import ObjectPrompt, SlicePrompt
from medsam2_ft.propagate import propagate_boxes
from medsam2_ft.slice_model import SliceModel

HW = (40, 50)


class Echo(SliceModel):
    """Answers with the box itself, moved to the right by a pixel; nothing on black slices."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), "echo", 1024)
        self.encoded: list[int] = []
        self.asked: list[tuple[int, list[float]]] = []

    def encode_frame(self, frame: NDArray[np.uint8]) -> Float[Tensor, "1 c f f"]:
        assert frame.flags.c_contiguous
        assert frame.flags.writeable
        self.encoded.append(int(frame.max()))
        return torch.full((1, 1, 1, 1), float(frame.max()))

    def box_logits(
        self,
        features: Float[Tensor, "1 c f f"],
        boxes_xyxy: Float32[np.ndarray, "n 4"],
        hw: tuple[int, int],
    ) -> Float[Tensor, "n {hw[0]} {hw[1]}"]:
        logits = torch.full((len(boxes_xyxy), *hw), -3.0)
        self.asked += [(int(features.max()), box.round(3).tolist()) for box in boxes_xyxy]
        for row, (x0, y0, x1, y1) in enumerate(boxes_xyxy.round().astype(int).tolist()):
            if features.max() > 0:
                logits[row, y0 : y1 + 1, x0 + 1 : x1 + 2] = 3.0
        return logits


def box_of(mask: Tensor) -> list[int]:
    rows, columns = torch.nonzero(mask > 0).unbind(1)
    return [int(v) for v in (columns.min(), rows.min(), columns.max(), rows.max())]


@pytest.fixture
def frames() -> NDArray[np.uint8]:
    """Each slice has its own value, the first one 1."""
    return np.broadcast_to(np.arange(1, 31, dtype=np.uint8)[:, None, None], (30, *HW))


def prompt(object_id: int, frame: int, z_range: tuple[int, int]) -> ObjectPrompt:
    box = np.array([5 + object_id, 8, 15 + object_id, 20], dtype=np.float32)
    return ObjectPrompt.from_box(object_id, frame, box, z_range)


def test_each_frame_is_encoded_once_and_each_object_comes_once_a_frame(
    frames: NDArray[np.uint8],
) -> None:
    prompts = [prompt(i, 10, (4, 20)) for i in range(6)] + [prompt(7, 2, (2, 25))]
    model = Echo()
    results = list(propagate_boxes(model, frames, prompts))
    assert Counter(model.encoded) == Counter(range(3, 27))
    visits = Counter((i, result.frame) for result in results for i in result.object_ids)
    expected = {(p.object_id, f) for p in prompts for f in range(p.z_range[0], p.z_range[1] + 1)}
    assert visits == Counter(expected)
    assert all(result.logits.shape == (len(result.object_ids), *HW) for result in results)


def test_the_box_of_the_last_mask_prompts_the_next_slice_both_ways(
    frames: NDArray[np.uint8],
) -> None:
    found = propagate_boxes(Echo(), frames, [prompt(0, 10, (7, 13))], margin_px=0.0)
    left = {result.frame: box_of(result.logits[0]) for result in found}
    # A pixel to the right per slice, starting again from the prompted slice on the way back.
    assert {f: box[0] for f, box in left.items()} == {
        10: 6, 11: 7, 12: 8, 13: 9, 9: 7, 8: 8, 7: 9,
    }  # fmt: skip
    assert all(box[1] == 8 and box[3] == 20 for box in left.values())


def test_the_margin_is_in_pixels_of_a_1024_input(frames: NDArray[np.uint8]) -> None:
    model = Echo()
    list(propagate_boxes(model, frames, [prompt(0, 10, (10, 11))], margin_px=20.48))
    (_, given), (_, followed) = model.asked
    assert given == [5, 8, 15, 20]
    assert followed == pytest.approx([6 - 1.0, 8 - 0.8, 16 + 1.0, 20 + 0.8], abs=2e-3)


@pytest.mark.parametrize("fallback", ["last", "first"])
def test_an_empty_mask_brings_back_a_box(fallback: str, frames: NDArray[np.uint8]) -> None:
    black = frames.copy()
    black[12:14] = 0
    model = Echo()
    options = {"margin_px": 0.0, "fallback": fallback}
    list(propagate_boxes(model, black, [prompt(0, 10, (10, 14))], **options))  # type: ignore[arg-type]
    lefts = [box[0] for _, box in model.asked]
    assert lefts == ([5, 6, 7, 7, 7] if fallback == "last" else [5, 6, 7, 5, 5])


def test_several_prompted_slices_each_use_their_own_box(frames: NDArray[np.uint8]) -> None:
    boxes = {f: np.array([x, 8, x + 5, 20], np.float32) for f, x in ((6, 3), (10, 20), (12, 30))}
    several = ObjectPrompt(1, tuple(SlicePrompt(f, box) for f, box in boxes.items()), (4, 14))
    model = Echo()
    found = propagate_boxes(model, frames, [several], margin_px=0.0)
    lefts = {result.frame: box_of(result.logits[0])[0] - 1 for result in found}
    assert lefts == {
        6: 3, 7: 4, 8: 5, 9: 6, 10: 20, 11: 21, 12: 30, 13: 31, 14: 32, 5: 4, 4: 5,
    }  # fmt: skip
    assert Counter(model.encoded) == Counter(range(5, 16))


def test_cancelling_stops_between_frames(frames: NDArray[np.uint8]) -> None:
    seen: list[int] = []
    for result in propagate_boxes(
        Echo(), frames, [prompt(0, 10, (0, 29))], cancelled=lambda: len(seen) == 4
    ):
        seen.append(result.frame)
    assert seen == [10, 11, 12, 13]


def test_no_prompts_yield_nothing(frames: NDArray[np.uint8]) -> None:
    model = Echo()
    assert list(propagate_boxes(model, frames, [])) == []
    assert model.encoded == []


def test_only_boxes_are_taken(frames: NDArray[np.uint8]) -> None:
    point = SlicePrompt(3, points_xy=np.ones((1, 2), np.float32), point_labels=np.ones(1, np.int32))
    drawn = SlicePrompt(3, mask=np.ones(HW, np.bool_))
    for part in (point, drawn):
        with pytest.raises(UserError, match=r"object 4: echo takes boxes .* slice 3\.$"):
            propagate_boxes(Echo(), frames, [ObjectPrompt(4, (part,), (3, 3))])
    far = np.array([60, 1, 70, 5], np.float32)
    with pytest.raises(UserError, match="not a box inside the image"):
        propagate_boxes(Echo(), frames, [ObjectPrompt.from_box(4, 3, far, (3, 3))])


def test_features_are_dropped_as_the_sweep_goes_on(
    shaken: Callable[..., SliceModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the depth, no more than one slice's features are held."""
    import weakref

    model = shaken("sam_tiny_test")
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0
    original = type(model).encode_frame

    def watched(self: SliceModel, frame: NDArray[np.uint8]) -> Tensor:
        nonlocal most
        features = original(self, frame)
        alive.add(features)
        most = max(most, len(alive))
        return features

    monkeypatch.setattr(type(model), "encode_frame", watched)
    deep = np.random.default_rng(0).integers(0, 256, (60, *HW), dtype=np.uint8)
    list(propagate_boxes(model, deep, [prompt(0, 30, (0, 59)), prompt(1, 25, (0, 59))]))
    # Of both sweeps' frames 25-29 are needed twice: forward for one, backward for the other.
    assert most <= 5 + 2


def test_a_slice_too_narrow_for_sam_is_refused(shaken: Callable[..., SliceModel]) -> None:
    narrow = np.zeros((3, 400, 1), np.uint8)
    box = ObjectPrompt.from_box(1, 1, np.array([0, 3, 0, 9], np.float32), (0, 2))
    with pytest.raises(UserError, match="1 x 400 pixels is too narrow"):
        list(propagate_boxes(shaken("sam_tiny_test"), narrow, [box]))
    assert len(list(propagate_boxes(shaken("medsam_tiny_test"), narrow, [box]))) == 3


@pytest.mark.parametrize("name", ["sam_tiny_test", "medsam_tiny_test"])
def test_bfloat16_is_near_float32(name: str, shaken: Callable[..., SliceModel]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, *HW), dtype=np.uint8)
    model, single = shaken(name), [prompt(1, 0, (0, 0))]
    (exact,) = propagate_boxes(model, noise, single)
    (half,) = propagate_boxes(model, noise, single, dtype=torch.bfloat16)
    assert half.logits.dtype == torch.float32
    span = exact.logits.max() - exact.logits.min()
    assert 0 < (half.logits - exact.logits).abs().max() < 0.1 * span
