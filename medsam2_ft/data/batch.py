"""The batch that travels from the loader to the device."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from medsam2_ft.data.index import MODALITY_NAMES, UNKNOWN_MODALITY


@dataclass(frozen=True)
class Sample:
    """One slice with its prompts, as a worker makes it.

    Attributes:
        image: Gray ``(S, S)`` or colour ``(S, S, 3)``.
        masks: One mask per prompt at a quarter of the input size; all False for a negative prompt.
        boxes_xyxy: One box per prompt in pixels of the input size.
        modality: Code of the slice's modality, see ``index.MODALITY_NAMES``.
    """

    image: UInt8[np.ndarray, "s s"] | UInt8[np.ndarray, "s s 3"]
    masks: Bool[np.ndarray, "n l l"]
    boxes_xyxy: Float32[np.ndarray, "n 4"]
    modality: int


@dataclass(frozen=True)
class SliceBatch:
    """Slices and prompts; the prompts of all slices lie one after the other.

    Attributes:
        images: Gray (one channel) or colour slices, 0-255.
        masks: Target of every prompt at a quarter of the input size. A prompt whose mask is all
            False is a negative: the object is absent.
        boxes: Box prompts ``x0, y0, x1, y1`` in pixels of the input size.
        image_index: Row of ``images`` that each prompt belongs to, ascending.
        modality: Code of each slice's modality, see ``index.MODALITY_NAMES``.

    A batch may hold no prompt at all (``n == 0``): padding samples carry none.
    """

    images: UInt8[Tensor, "b c s s"]
    masks: Bool[Tensor, "n l l"]
    boxes: Float32[Tensor, "n 4"]
    image_index: Int64[Tensor, " n"]
    modality: Int64[Tensor, " b"]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "SliceBatch":
        """Returns the batch on another device."""
        return SliceBatch(
            **{
                f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
                for f in fields(self)
            }
        )

    def pin_memory(self) -> "SliceBatch":
        """Returns the batch in page-locked memory, which a GPU can read by itself."""
        return SliceBatch(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})


def padding_sample(image_size: int) -> Sample:
    """Returns a black slice without prompts, which fills the last batch of an epoch."""
    low = image_size // 4
    return Sample(
        image=np.zeros((image_size, image_size), np.uint8),
        masks=np.zeros((0, low, low), bool),
        boxes_xyxy=np.zeros((0, 4), np.float32),
        modality=MODALITY_NAMES.index(UNKNOWN_MODALITY),
    )


def collate(samples: Sequence[Sample]) -> SliceBatch:
    """Stacks samples of one input size.

    Gray slices become three equal channels where the batch also holds colour; a batch of gray
    slices keeps one channel.

    Args:
        samples: At least one.
    """
    colour = any(sample.image.ndim == 3 for sample in samples)
    images = np.stack([_channels_first(sample.image, colour) for sample in samples])
    counts = [len(sample.masks) for sample in samples]
    return SliceBatch(
        images=torch.from_numpy(images),
        masks=torch.from_numpy(np.concatenate([sample.masks for sample in samples])),
        boxes=torch.from_numpy(np.concatenate([sample.boxes_xyxy for sample in samples])),
        image_index=torch.from_numpy(np.repeat(np.arange(len(samples)), counts)),
        modality=torch.tensor([sample.modality for sample in samples]),
    )


def _channels_first(
    image: UInt8[np.ndarray, "s s"] | UInt8[np.ndarray, "s s 3"], colour: bool
) -> UInt8[np.ndarray, "c s s"]:
    if image.ndim == 3:
        return image.transpose(2, 0, 1)
    return np.broadcast_to(image, (3 if colour else 1, *image.shape))
