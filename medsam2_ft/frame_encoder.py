"""Frames of a volume to features, one at a time, and which features are kept for later."""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medsam2_ft.feature_file import FeatureFile
from medsam2_ft.features import Encoding

# About 30 frames at 1024 in float32.
RECENT_BYTES: Final = 512 << 20

F = TypeVar("F", bound=Encoding | Tensor)
F_co = TypeVar("F_co", bound=Encoding | Tensor, covariant=True)


@runtime_checkable
class FrameModel(Protocol[F_co]):
    """A model that encodes frames: ``Sam2`` or a ``SliceModel``."""

    def encode_frame(self, frame: NDArray[np.uint8]) -> F_co:
        """Returns the features of one frame, ``(h, w)`` or ``(h, w, 3)``, contiguous."""


class FrameEncoder(Generic[F]):
    """Encodes frames.

    Args:
        model: What encodes them.
        frames: uint8 ``(t, h, w)`` or ``(t, h, w, 3)``; may be a view, one frame is copied.
    """

    def __init__(self, model: FrameModel[F], frames: NDArray[np.uint8]) -> None:
        self.model = model
        self.frames = frames

    def __call__(self, frame: int) -> F:
        """Returns the features of a frame."""
        # The copy is one frame; it makes read-only, strided and memory-mapped volumes acceptable
        # to torch.
        return self.model.encode_frame(np.array(self.frames[frame], order="C"))


class PlannedEncoder(FrameEncoder[F]):
    """Encodes each frame once, where it is known which will be asked for again.

    Features wait for that in a temporary file, so that memory does not grow with the number of
    frames. Where the file has no room, a frame is encoded again.

    Args:
        model: What encodes them.
        frames: As of ``FrameEncoder``.
        visits: Every frame as often as it will be asked for.
    """

    def __init__(
        self, model: FrameModel[F], frames: NDArray[np.uint8], visits: Iterable[int]
    ) -> None:
        super().__init__(model, frames)
        self.left = Counter(visits)
        self.waiting: FeatureFile[F] = FeatureFile()

    def __call__(self, frame: int) -> F:
        """Returns the features of a frame."""
        features = self.waiting.get(frame)
        known = features is not None
        if features is None:
            features = super().__call__(frame)
        self.left[frame] -= 1
        if self.left[frame] <= 0:
            self.waiting.discard(frame)
        elif not known:
            self.waiting.put(frame, features)
        return features


class RecentEncoder(FrameEncoder[F]):
    """Encodes frames as a user asks for them, and keeps the latest.

    Args:
        model: What encodes them.
        frames: As of ``FrameEncoder``.
        max_bytes: Limit of what is kept; None is ``RECENT_BYTES``.
    """

    def __init__(
        self, model: FrameModel[F], frames: NDArray[np.uint8], max_bytes: int | None = None
    ) -> None:
        super().__init__(model, frames)
        self.max_bytes = max_bytes
        self.kept: OrderedDict[int, F] = OrderedDict()

    def __call__(self, frame: int) -> F:
        """Returns the features of a frame."""
        features = self.kept.pop(frame, None)
        if features is None:
            features = super().__call__(frame)
        self.kept[frame] = features
        limit = RECENT_BYTES if self.max_bytes is None else self.max_bytes
        while sum(entry.nbytes for entry in self.kept.values()) > limit:
            self.kept.popitem(last=False)
        return features


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
