"""Features that wait for a second visit to their frame, in a temporary file instead of memory."""

import errno
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import IO, Final, Generic, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medsam2_ft.features import Encoding

# Of the space that is free where temporary files lie (TMPDIR), when the first features come.
SHARE_OF_FREE_DISK: Final = 0.5

F = TypeVar("F", bound=Encoding | Tensor)


@dataclass(frozen=True)
class _Entry:
    """Where the tensors of a frame lie, and what they are."""

    slot: int
    tensors: tuple[tuple[torch.Size, torch.dtype, torch.memory_format], ...]
    device: torch.device
    is_encoding: bool


class FeatureFile(Generic[F]):
    """Features by frame number, all of one size, in an unnamed temporary file.

    The file is made with the first features and goes with the object. It grows with the number of
    features that wait at the same time: places are used again. Where TMPDIR is in memory (tmpfs),
    so are they.
    """

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None
        self.slots = 0
        self._entries: dict[int, _Entry] = {}
        self._free: list[int] = []
        self._places_made = 0

    def __len__(self) -> int:
        """Number of frames whose features wait."""
        return len(self._entries)

    def put(self, frame: int, features: F) -> bool:
        """Stores the features of a frame; False where there is no room, and nothing is stored."""
        tensors = _tensors(features)
        if self.file is None:
            self._open(features.nbytes)
        slot = self._free.pop() if self._free else self._places_made
        if self.file is None or slot >= self.slots:
            return False
        try:
            self.file.seek(slot * features.nbytes)
            for tensor in tensors:
                if self.file.write(_bytes(tensor).data) < tensor.nbytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:  # the disk has become full
            self.slots = self._places_made
            return False
        self._places_made = max(self._places_made, slot + 1)
        self._entries[frame] = _Entry(
            slot,
            tuple((tensor.shape, tensor.dtype, _layout(tensor)) for tensor in tensors),
            tensors[0].device,
            isinstance(features, Encoding),
        )
        return True

    def get(self, frame: int) -> F | None:
        """Returns the features of a frame, bit for bit and on their device; None without any."""
        entry = self._entries.get(frame)
        if entry is None or self.file is None:
            return None
        sizes = [shape.numel() * dtype.itemsize for shape, dtype, _ in entry.tensors]
        self.file.seek(entry.slot * sum(sizes))
        tensors = []
        for size, (shape, dtype, layout) in zip(sizes, entry.tensors, strict=True):
            stored = torch.frombuffer(bytearray(self.file.read(size)), dtype=dtype)
            tensors.append(stored.reshape(shape).to(entry.device).contiguous(memory_format=layout))
        # one kind of features per file
        return cast(F, Encoding(_three(tensors)) if entry.is_encoding else tensors[0])

    def discard(self, frame: int) -> None:
        """Gives the place of a frame to others; nothing happens where it has none."""
        entry = self._entries.pop(frame, None)
        if entry is not None:
            self._free.append(entry.slot)

    def _open(self, size: int) -> None:
        try:
            free = shutil.disk_usage(tempfile.gettempdir()).free
            # Unbuffered: what a full disk has refused must not come up again later.
            self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # lives as long as this
        except OSError:  # nowhere to write
            return
        self.slots = int(free * SHARE_OF_FREE_DISK) // size


def _tensors(features: Encoding | Tensor) -> tuple[Tensor, ...]:
    return features.levels if isinstance(features, Encoding) else (features,)


def _three(tensors: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    fine, middle, coarse = tensors
    return fine, middle, coarse


def _layout(tensor: Tensor) -> torch.memory_format:
    """The order in which a tensor lies in memory, which decides how later sums are rounded."""
    if tensor.ndim == 4 and not tensor.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """The elements as bytes, which hold any type (numpy has no bfloat16)."""
    flat: NDArray[np.uint8] = tensor.detach().cpu().flatten().view(torch.uint8).numpy()
    return flat
