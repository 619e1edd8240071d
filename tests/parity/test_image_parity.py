"""Our image path against Meta's SAM2ImagePredictor, on real slices."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medsam2_ft.prompts import mask_to_box, scale_boxes
from medsam2_ft.propagate import ObjectPrompt, propagate
from medsam2_ft.resize import logits_to_native, to_input
from medsam2_ft.sam2_adapter import Sam2, image_predictor

# Meta's transforms are scripted.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
TOLERANCE = 1e-6
BOXES = np.array([[12, 30, 45, 90], [55, 25, 90, 95], [40, 60, 62, 85]], dtype=np.float32)


def our_logits(model: Sam2, slices: NDArray[np.uint8], boxes: NDArray[np.float32]) -> torch.Tensor:
    """Every box on every slice: (slices * boxes, h, w)."""
    hw = (slices.shape[1], slices.shape[2])
    size = model.image_size
    with torch.no_grad():
        encoding = model.encode(to_input(torch.from_numpy(slices), size))
        index = torch.arange(len(slices)).repeat_interleave(len(boxes))
        scaled = torch.from_numpy(scale_boxes(boxes, hw, (size, size))).repeat(len(slices), 1)
        return logits_to_native(model.decode(encoding, index, scaled).mask_logits, hw)


def meta_logits(model: Sam2, image: NDArray[np.uint8], box: NDArray[np.float32]) -> torch.Tensor:
    """One box on one slice, by Meta's predictor on the same weights: (h, w)."""
    predictor = image_predictor(model)
    predictor.set_image(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))
    masks, _, _ = predictor.predict(box=box, multimask_output=False, return_logits=True)
    return torch.from_numpy(masks[0])


@pytest.mark.parametrize(
    ("variant", "size"),
    [
        ("tiny_test", 64),
        ("tiny_test", 96),
        ("sam2.1_hiera_tiny", 256),
        ("sam2_hiera_tiny", 256),
        ("sam2.1_hiera_tiny", 512),
        pytest.param("sam2.1_hiera_tiny", 1024, marks=pytest.mark.slow),
    ],
)
def test_logits_equal_the_image_predictors(
    variant: str,
    size: int,
    chest: NDArray[np.uint8],
    random_model: Callable[..., Sam2],
    assert_telling: Callable[[torch.Tensor], None],
    relative_error: Callable[[torch.Tensor, torch.Tensor], float],
) -> None:
    model = random_model(variant, size)
    for box in BOXES[:1] if size >= 512 else BOXES:
        expected = meta_logits(model, chest[17], box)
        assert_telling(expected)
        actual = our_logits(model, chest[17:18], box[None])[0]
        assert relative_error(actual, expected) <= TOLERANCE


@pytest.fixture(scope="module")
def small_model(random_model: Callable[..., Sam2]) -> Sam2:
    return random_model("sam2.1_hiera_tiny", 256)


def test_batches_of_slices_and_boxes_give_each_its_own_mask(
    small_model: Sam2,
    chest: NDArray[np.uint8],
    relative_error: Callable[[torch.Tensor, torch.Tensor], float],
) -> None:
    slices = chest[[10, 20]]
    actual = our_logits(small_model, slices, BOXES)
    expected = torch.stack(
        [meta_logits(small_model, image, box) for image in slices for box in BOXES]
    )
    # Batched matrix products round in another order than Meta's single prompts.
    assert relative_error(actual, expected) <= 1e-5
    assert relative_error(actual.roll(1, 0), expected) > 1e-2


def test_colour_and_moved_boxes(
    small_model: Sam2,
    chest: NDArray[np.uint8],
    relative_error: Callable[[torch.Tensor, torch.Tensor], float],
) -> None:
    colour = np.stack([chest[10], chest[15], chest[20]], axis=-1)
    expected = meta_logits(small_model, colour, BOXES[0])
    actual = our_logits(small_model, colour[None], BOXES[:1])[0]
    assert relative_error(actual, expected) <= TOLERANCE
    moved = our_logits(small_model, colour[None], BOXES[:1] + 1)[0]
    assert relative_error(moved, expected) > 100 * TOLERANCE


def test_training_mode_decodes_as_evaluation_mode(
    small_model: Sam2, chest: NDArray[np.uint8]
) -> None:
    expected = our_logits(small_model, chest[17:18], BOXES)
    small_model.train()
    try:
        actual = our_logits(small_model, chest[17:18], BOXES)
    finally:
        small_model.eval()
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def _meta_box_to_box(
    model: Sam2, frames: NDArray[np.uint8], box: NDArray[np.float32], order: range, margin: float
) -> dict[int, torch.Tensor]:
    """The paper's inference, written plainly: the mask's box, grown, prompts the next slice."""
    height, width = frames.shape[1:3]
    margins = np.array([-margin * width, -margin * height, margin * width, margin * height]) / 1024
    limits = np.array([width - 1, height - 1, width - 1, height - 1])
    results = {}
    for frame in order:
        results[frame] = meta_logits(model, frames[frame], box)
        tight = mask_to_box((results[frame] > 0).numpy())
        if tight is not None:
            box = np.clip(tight + margins, 0, limits).astype(np.float32)
    return results


@pytest.mark.parametrize("margin", [5.0, 40.0])
def test_box_propagation_equals_a_plain_loop(
    margin: float,
    chest: NDArray[np.uint8],
    random_model: Callable[..., Sam2],
    assert_telling: Callable[[torch.Tensor], None],
    relative_error: Callable[[torch.Tensor, torch.Tensor], float],
) -> None:
    model = random_model("tiny_test", 64, seed=3)
    prompts = [
        ObjectPrompt.from_box(object_id=7, frame=12, box_xyxy=BOXES[0], z_range=(8, 17)),
        ObjectPrompt.from_box(object_id=3, frame=15, box_xyxy=BOXES[1], z_range=(10, 15)),
    ]
    expected: dict[tuple[int, int], torch.Tensor] = {}
    for prompt in prompts:
        first, last = prompt.z_range
        for order in (range(prompt.frame, last + 1), range(prompt.frame, first - 1, -1)):
            loop = _meta_box_to_box(model, chest, prompt.slices[0].box_xyxy, order, margin)
            expected |= {(prompt.object_id, frame): logits for frame, logits in loop.items()}
    actual = {
        (object_id, result.frame): logits
        for result in propagate(model, chest, prompts, strategy="box", margin_px=margin)
        for object_id, logits in zip(result.object_ids, result.logits, strict=True)
    }
    assert actual.keys() == expected.keys()
    assert_telling(torch.stack(list(expected.values())))
    for key, logits in expected.items():
        assert relative_error(actual[key], logits) <= 1e-5, key
