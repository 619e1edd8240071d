"""How long a piece of work takes, and how much memory."""

import math
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import psutil
import torch

_MIB: Final = 1 << 20
_INTERVAL_S: Final = 0.02


@dataclass(frozen=True)
class Cost:
    """Time and memory.

    Attributes:
        seconds: NaN where nothing was measured.
        peak_rss_mb: Largest resident memory of the process, in MiB, looked up 50 times a second.
        peak_cuda_mb: Largest memory that tensors took on the GPU, in MiB; NaN without one.
    """

    seconds: float = math.nan
    peak_rss_mb: float = math.nan
    peak_cuda_mb: float = math.nan


class Meter:
    """Measures what happens inside ``with``.

    Args:
        device: Where the work runs.

    Attributes:
        cost: Complete once the block is left.
    """

    def __init__(self, device: torch.device) -> None:
        self.cost = Cost()
        self._device = device
        self._process = psutil.Process()
        self._ended = threading.Event()
        self._peak = 0
        self._started = 0.0
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        """Starts measuring."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._look()
        self._watcher.start()
        self._started = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends measuring, after an error as well."""
        seconds = time.perf_counter() - self._started
        self._ended.set()
        self._watcher.join()
        self._look()
        cuda = math.nan
        if self._device.type == "cuda":
            cuda = torch.cuda.max_memory_allocated(self._device) / _MIB
        self.cost = Cost(seconds, self._peak / _MIB, cuda)

    def _look(self) -> None:
        self._peak = max(self._peak, int(self._process.memory_info().rss))

    def _watch(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            self._look()
