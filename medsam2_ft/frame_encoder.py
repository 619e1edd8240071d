"""Frames of a volume to features, one at a time, and which features are kept for later."""

from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from medsam2_ft.features import Encoding
from medsam2_ft.resize import to_input
from medsam2_ft.sam2_adapter import Sam2

# About 30 frames at 1024 in float32; beyond it, frames that are needed again are encoded again.
ENCODING_CACHE_BYTES: Final = 512 << 20


class FrameEncoder:
    """Encodes frames and keeps features that are needed again, up to ``ENCODING_CACHE_BYTES``.

    Args:
        model: Any SAM2.
        frames: uint8 ``(t, h, w)`` or ``(t, h, w, 3)``; may be a view, one frame is copied.
        reuse: How often each frame will be asked for; it is kept until then. None keeps the frames
            that were asked for last, whatever comes.
    """

    def __init__(
        self, model: Sam2, frames: NDArray[np.uint8], reuse: Collection[int] | None
    ) -> None:
        self.model = model
        self.frames = frames
        self.uses = None if reuse is None else _counts(reuse)
        self.kept: OrderedDict[int, Encoding] = OrderedDict()

    def __call__(self, frame: int) -> Encoding:
        """Returns the features of a frame (``b == 1``)."""
        encoding = self.kept.pop(frame, None)
        if encoding is None:
            # The copy is one frame; it makes read-only, strided and memory-mapped volumes
            # acceptable to torch.
            image = torch.from_numpy(np.array(self.frames[frame : frame + 1], order="C"))
            image = image.to(self.model.device)
            encoding = self.model.encode(to_input(image, self.model.image_size))
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
def inference(model: Sam2, dtype: torch.dtype) -> Iterator[None]:
    """No gradients, autocast as asked, dropout off; the training flags come back afterwards.

    To be entered for each frame: a generator must not leave modes changed at a ``yield``.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    autocast = torch.autocast(model.device.type, dtype=dtype, enabled=dtype != torch.float32)
    try:
        with torch.no_grad(), autocast:
            yield
    finally:
        for module in training:
            module.training = True
