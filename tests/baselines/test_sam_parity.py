"""SAM against the SamPredictor of segment_anything, on the same weights and real slices."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor

from medsam2_ft.baselines.core import decode_boxes
from medsam2_ft.prompts import mask_to_box, pad_box, scale_boxes
from medsam2_ft.propagate import ObjectPrompt, propagate_boxes
from medsam2_ft.slice_model import SliceModel

Logits = NDArray[np.float32]


def predicted(
    model: SliceModel, image: NDArray[np.uint8], boxes: NDArray[np.float32]
) -> tuple[Logits, Logits]:
    """Native and low-resolution logits, box by box, as a user of the package gets them."""
    predictor = SamPredictor(model.core)
    predictor.set_image(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))
    found = [predictor.predict(box=b, multimask_output=False, return_logits=True) for b in boxes]
    return np.stack([f[0][0] for f in found]), np.stack([f[2][0] for f in found])


def ours(
    model: SliceModel, image: NDArray[np.uint8], boxes: NDArray[np.float32]
) -> NDArray[np.float32]:
    with torch.no_grad():
        features = model.encode_frame(image)
        return model.box_logits(features, boxes, image.shape[:2]).numpy()


def assert_same(actual: Logits, expected: Logits, tolerance: float = 1e-5) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    assert np.abs(actual - expected).max() <= tolerance * np.ptp(expected)
    a, e = actual > 0, expected > 0
    assert (a & e).sum() >= 0.999 * (a | e).sum()


def some_boxes(hw: tuple[int, ...]) -> NDArray[np.float32]:
    h, w = hw[:2]
    shares = np.array([[0.1, 0.2, 0.5, 0.6], [0.5, 0.5, 0.9, 0.95], [0.0, 0.0, 0.3, 1.0]])
    return (shares * [w - 1, h - 1, w - 1, h - 1]).astype(np.float32)


@pytest.mark.parametrize("which", ["gray, high", "gray, wide", "colour", "smaller than the input"])
def test_boxes_give_the_predictors_masks(
    which: str,
    shaken: Callable[..., SliceModel],
    volume: NDArray[np.uint8],
    colour: NDArray[np.uint8],
    assert_telling: Callable[[torch.Tensor], None],
) -> None:
    images = {
        "gray, high": volume[8],
        "gray, wide": np.ascontiguousarray(volume[8].T),
        "colour": colour,
        "smaller than the input": np.ascontiguousarray(volume[8][::20, ::20]),
    }
    image, model = images[which], shaken("sam_tiny_test")
    boxes = some_boxes(image.shape)
    expected, low = predicted(model, image, boxes)
    assert_telling(torch.from_numpy(expected))
    assert np.abs(expected[0] - expected[1]).max() > 0.05 * np.ptp(expected)  # the boxes matter
    assert_same(ours(model, image, boxes), expected)
    with torch.no_grad():
        scaled = SamPredictor(model.core).transform.apply_boxes(boxes, image.shape[:2])
        found = decode_boxes(
            model.core, model.encode_frame(image), torch.from_numpy(scaled).float()
        )
    assert_same(found[:, 0].numpy(), low)


@pytest.mark.slow
def test_the_real_size_gives_the_predictors_masks(
    shaken: Callable[..., SliceModel],
    colour: NDArray[np.uint8],
    assert_telling: Callable[[torch.Tensor], None],
) -> None:
    model = shaken("sam_vit_b", seed=2, strength=0.02)
    assert model.image_size == 1024
    boxes = some_boxes(colour.shape)
    expected, _ = predicted(model, colour, boxes)
    assert_telling(torch.from_numpy(expected))
    assert_same(ours(model, colour, boxes), expected)


def box_to_box(
    model: SliceModel,
    frames: NDArray[np.uint8],
    box: NDArray[np.float32],
    order: range,
    margin: float,
) -> dict[int, Logits]:
    """The paper's inference with the predictor, written plainly."""
    hw, square = (frames.shape[1], frames.shape[2]), (1024, 1024)
    found = {}
    for frame in order:
        found[frame] = predicted(model, frames[frame], box[None])[0][0]
        tight = mask_to_box(found[frame] > 0)
        if tight is not None:
            wide = pad_box(scale_boxes(tight[None], hw, square)[0], margin, square)
            box = scale_boxes(wide[None], square, hw)[0]
    return found


def compact(model: SliceModel) -> None:
    """Keeps random masks smaller than the image, so that their boxes differ."""
    original = model.core.postprocess_masks

    def lower(masks: torch.Tensor, *args: tuple[int, int]) -> torch.Tensor:
        zero = masks.flatten(1).quantile(0.8, dim=1)[:, None, None, None]
        return original(masks - zero, *args)

    model.core.postprocess_masks = lower


@pytest.mark.parametrize("margin", [5.0, 40.0])
def test_slice_to_slice_equals_a_plain_loop(
    margin: float, shaken: Callable[..., SliceModel], volume: NDArray[np.uint8]
) -> None:
    model, frames = shaken("sam_tiny_test", seed=3), volume[:8]
    compact(model)
    boxes = some_boxes(frames.shape[1:])
    prompts = [
        ObjectPrompt.from_box(7, 3, boxes[0], (1, 6)),
        ObjectPrompt.from_box(3, 5, boxes[1], (2, 5)),
        ObjectPrompt.from_box(9, 0, boxes[2], (0, 7)),
    ]
    expected: dict[tuple[int, int], Logits] = {}
    for prompt in prompts:
        first, last = prompt.z_range
        box = prompt.slices[0].box_xyxy
        assert box is not None
        for order in (range(prompt.frame, last + 1), range(prompt.frame, first - 1, -1)):
            loop = box_to_box(model, frames, box, order, margin)
            expected |= {(prompt.object_id, frame): logits for frame, logits in loop.items()}
    actual = {
        (object_id, result.frame): logits.numpy()
        for result in propagate_boxes(model, frames, prompts, margin_px=margin)
        for object_id, logits in zip(result.object_ids, result.logits, strict=True)
    }
    assert actual.keys() == expected.keys()
    for key, logits in expected.items():
        assert_same(actual[key], logits, tolerance=1e-4)
        assert 0 < (logits > 0).mean() < 0.4
    tight = {tuple(mask_to_box(logits > 0).tolist()) for logits in expected.values()}
    assert len(tight) > len(expected) // 2  # the masks lead to different boxes
