"""What every benchmark states beside its numbers, and the file that it writes."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
import torch

from medsam2_ft.io import atomic

PACKAGES: Final = ("torch", "numpy", "sam2", "lightning")


def processor_name() -> str:
    """The processor as Linux or macOS calls it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine_facts() -> dict[str, Any]:
    """Processor, cores, memory, GPU, threads and versions."""
    facts: dict[str, Any] = {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        facts["gpu"] = {"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)}
        facts["gpu"]["cuda"] = torch.version.cuda
    return facts


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Writes a result with the command that made it and the machine; nothing without a path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"command": " ".join(["python", *sys.argv]), "machine": machine_facts()}
    atomic.write_json(path, facts | result)


def median_seconds(function: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Median time of a call after one to warm up.

    On a CPU it is CPU time by threads, which other work on the machine changes less than wall time.
    """
    seconds = []
    for _ in range(repeats + 1):
        start_s = seconds_now(device)
        function()
        seconds.append(seconds_now(device) - start_s)
    return statistics.median(seconds[1:])


def seconds_now(device: torch.device) -> float:
    """Wall time once a GPU has done all that was asked, or CPU time by threads."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def matmul_flop_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Best speed of a large square matrix product."""
    side = 8192 if device.type == "cuda" else 1536
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    return 2 * side**3 / _best_seconds(lambda: a @ b, device)


def memory_byte_per_s(device: torch.device) -> float:
    """Best speed of memory that no cache holds; bytes read and bytes written count.

    The better of a copy and a change in place: a CPU reads a copy's target, too, before writing it.
    """
    source = torch.ones(2**30 if device.type == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    copied = _best_seconds(lambda: target.copy_(source), device)
    changed = _best_seconds(lambda: source.mul_(1.0), device)
    return 2 * source.nbytes / min(copied, changed)


def _best_seconds(function: Callable[[], Any], device: torch.device) -> float:
    return min(median_seconds(function, 1, device) for _ in range(8))


def fresh_process(command: Sequence[str]) -> dict[str, Any]:
    """Runs a script whose last line is JSON and returns what it says."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def high_water_mb(field: str = "VmHWM") -> float:
    """A line of /proc/self/status in MB: the peak of resident memory, or ``VmRSS`` (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(field)
