"""Frames of a volume to features, one at a time, and which features are kept for later."""

from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

# About 30 frames at 1024 in float32; beyond it, frames that are needed again are encoded again.
ENCODING_CACHE_BYTES: Final = 512 << 20


@runtime_checkable
class Features(Protocol):
    """What a model makes of a frame."""

    @property
    def nbytes(self) -> int:
        """Memory that the features take, in bytes."""


F = TypeVar("F", bound=Features)
F_co = TypeVar("F_co", bound=Features, covariant=True)


@runtime_checkable
class FrameModel(Protocol[F_co]):
    """A model that encodes frames: ``Sam2`` or a ``SliceModel``."""

    def encode_frame(self, frame: NDArray[np.uint8]) -> F_co:
        """Returns the features of one frame, ``(h, w)`` or ``(h, w, 3)``, contiguous."""


class FrameEncoder(Generic[F]):
    """Encodes frames and keeps features that are needed again, up to ``ENCODING_CACHE_BYTES``.

    Args:
        model: What encodes them.
        frames: uint8 ``(t, h, w)`` or ``(t, h, w, 3)``; may be a view, one frame is copied.
        reuse: How often each frame will be asked for; it is kept until then. None keeps the frames
            that were asked for last, whatever comes.
    """

    def __init__(
        self, model: FrameModel[F], frames: NDArray[np.uint8], reuse: Collection[int] | None
    ) -> None:
        self.model = model
        self.frames = frames
        self.uses = None if reuse is None else _counts(reuse)
        self.kept: OrderedDict[int, F] = OrderedDict()

    def __call__(self, frame: int) -> F:
        """Returns the features of a frame."""
        encoding = self.kept.pop(frame, None)
        if encoding is None:
            # The copy is one frame; it makes read-only, strided and memory-mapped volumes
            # acceptable to torch.
            encoding = self.model.encode_frame(np.array(self.frames[frame], order="C"))
        if self._needed_again(frame):
            self.kept[frame] = encoding
            while sum(entry.nbytes for entry in self.kept.values()) > ENCODING_CACHE_BYTES:
                self.kept.popitem(last=False)
        return encoding

    def _needed_again(self, frame: int) -> bool:
        if self.uses is None:
            return True
        self.uses[frame] = self.uses.get(frame, 1) - 1
        return self.uses[frame] > 0


def _counts(frames: Collection[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for frame in frames:
        counts[frame] = counts.get(frame, 0) + 1
    return counts


@contextmanager
def inference(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """No gradients, autocast as asked, dropout off; the training flags come back afterwards.

    To be entered for each frame: a generator must not leave modes changed at a ``yield``.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    place = next(model.parameters()).device.type
    autocast = torch.autocast(place, dtype=dtype, enabled=dtype != torch.float32)
    try:
        with torch.no_grad(), autocast:
            yield
    finally:
        for module in training:
            module.training = True
