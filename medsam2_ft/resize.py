"""To the model's input and back: the resizing and normalisation of Meta's image predictor.

Everything here runs on the device of its input, one call per slice or batch; nothing keeps a
float copy of a whole volume.
"""

from functools import lru_cache
from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

# ImageNet statistics, as in sam2.utils.transforms.SAM2Transforms (public, fixed by the weights).
PIXEL_MEAN: Final = (0.485, 0.456, 0.406)
PIXEL_STD: Final = (0.229, 0.224, 0.225)


def to_input(
    images: UInt8[Tensor, "t h w"] | UInt8[Tensor, "t h w 3"], size: int
) -> Float[Tensor, "t 3 {size} {size}"]:
    """Resizes and normalises slices exactly as ``SAM2ImagePredictor.set_image`` does.

    Float bilinear with antialiasing to a square, aspect ratio not kept. Gray becomes three equal
    channels, which is what the predictor sees when it is given a gray image repeated to RGB.

    Args:
        images: Gray ``(t, h, w)`` or colour ``(t, h, w, 3)`` slices, 0-255.
        size: Side of the model's input in pixels.

    Returns:
        Normalised float32 batch on the device of ``images``; ``t == 0`` gives an empty batch.
    """
    channels_first = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    scaled = channels_first.contiguous().float().div(255)
    if scaled.shape[-2:] != (size, size) and len(scaled):
        scaled = interpolate(
            scaled, (size, size), mode="bilinear", align_corners=False, antialias=True
        )
    elif not len(scaled):
        scaled = scaled.new_zeros((0, scaled.shape[1], size, size))
    return _standardize(scaled)


def normalize(
    images: UInt8[Tensor, "b 1 s s"] | UInt8[Tensor, "b 3 s s"],
) -> Float[Tensor, "b 3 s s"]:
    """Normalises a uint8 training batch that already has the model's size, on its device.

    Args:
        images: Gray or colour batch, 0-255; gray becomes three equal channels.

    Returns:
        float32 batch, standardised by the ImageNet mean and standard deviation.
    """
    return _standardize(images.float().div(255))


def logits_to_native(
    logits: Float[Tensor, "n 1 l l"], hw: tuple[int, int]
) -> Float[Tensor, "n {hw[0]} {hw[1]}"]:
    """Brings low-resolution mask logits to the image's own grid, as both of Meta's predictors do.

    Args:
        logits: Mask logits of any float dtype at a quarter of the model's input size.
        hw: Height and width of the image in pixels.

    Returns:
        float32 logits; ``n == 0`` gives an empty tensor.
    """
    if not len(logits):
        return logits.new_zeros((0, *hw), dtype=torch.float32)
    return interpolate(logits.float(), hw, mode="bilinear", align_corners=False)[:, 0]


def _standardize(unit: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
    """Subtracts the mean and divides by the deviation of each of the three channels."""
    mean, std = (_per_channel(values, unit.device) for values in (PIXEL_MEAN, PIXEL_STD))
    return unit.expand(-1, 3, -1, -1).sub(mean).div_(std)


@lru_cache(maxsize=8)
def _per_channel(
    values: tuple[float, float, float], device: torch.device
) -> Float[Tensor, "3 1 1"]:
    """Kept on the device: each copy from the host would wait for all that the GPU has to do."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)[:, None, None]
