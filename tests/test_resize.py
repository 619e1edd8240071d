"""Resizing and normalisation against Meta's SAM2Transforms."""

import numpy as np
import pytest
import torch
from sam2.utils.transforms import SAM2Transforms
from torchvision.transforms.functional import normalize as torchvision_normalize

from medsam2_ft.resize import logits_to_native, normalize, to_input

# Meta's transforms are scripted.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")


@pytest.mark.parametrize("hw", [(40, 70), (512, 300), (64, 64), (700, 1), (1, 1)])
@pytest.mark.parametrize("colour", [False, True])
def test_to_input_is_metas_transform_bit_for_bit(hw: tuple[int, int], colour: bool) -> None:
    rng = np.random.default_rng(0)
    slices = rng.integers(0, 256, (2, *hw, 3) if colour else (2, *hw), dtype=np.uint8)
    rgb = slices if colour else np.repeat(slices[..., None], 3, axis=-1)
    expected = SAM2Transforms(64, 0.0).forward_batch(list(rgb))
    torch.testing.assert_close(to_input(torch.from_numpy(slices), 64), expected, rtol=0, atol=0)


def test_to_input_of_no_slices_is_empty() -> None:
    assert to_input(torch.zeros((0, 5, 7), dtype=torch.uint8), 64).shape == (0, 3, 64, 64)
    assert to_input(torch.zeros((0, 5, 7, 3), dtype=torch.uint8), 64).shape == (0, 3, 64, 64)


def test_to_input_leaves_its_argument_alone() -> None:
    slices = torch.arange(2 * 64 * 64).reshape(2, 64, 64).to(torch.uint8)
    before = slices.clone()
    to_input(slices, 64)
    assert torch.equal(slices, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_is_torchvisions(channels: int) -> None:
    images = torch.randint(0, 256, (2, channels, 8, 8), dtype=torch.uint8)
    unit = images.expand(-1, 3, -1, -1).float() / 255
    expected = torchvision_normalize(unit, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(normalize(images), expected, rtol=0, atol=0)


def test_normalize_agrees_with_to_input_at_the_models_size() -> None:
    images = torch.randint(0, 256, (2, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(normalize(images[:, None]), to_input(images, 64), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_to_native_is_metas_postprocessing(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 1, 16, 16).to(dtype)
    expected = SAM2Transforms(64, 0.0).postprocess_masks(logits, (45, 80))[:, 0]
    actual = logits_to_native(logits, (45, 80))
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_logits_to_native_of_no_prompts_is_empty() -> None:
    assert logits_to_native(torch.zeros(0, 1, 16, 16), (4, 5)).shape == (0, 4, 5)
