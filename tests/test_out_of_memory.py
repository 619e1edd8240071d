"""Shortages of memory, made for real, become one line."""

import os
import resource
import signal
import subprocess
import sys

import pytest
import torch

from medsam2_ft.errors import UserError
from medsam2_ft.out_of_memory import memory_advice, shortage

ALLOCATE = """
import resource, sys, torch
from medsam2_ft.entry import run
from medsam2_ft.out_of_memory import memory_advice
def main():
    with memory_advice(lambda: "fit (batch_size 8)", "try less"):
        resource.setrlimit(resource.RLIMIT_AS, (2**33, resource.RLIM_INFINITY))
        torch.empty(2**34, dtype=torch.uint8)
sys.exit(run(main))
"""


class KillsItself(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, _: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


def test_a_failed_allocation_is_one_line_and_exit_code_2() -> None:
    assert resource.getrlimit(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATE], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    line = "error: fit (batch_size 8): this computer is out of memory; try less"
    assert done.stderr.strip().splitlines()[-1] == line


def test_a_killed_worker_is_told_from_a_defect() -> None:
    loader = torch.utils.data.DataLoader(KillsItself(), num_workers=1)
    with (
        pytest.raises(UserError, match="worker was killed"),
        memory_advice(lambda: "fit", "try less"),
    ):
        next(iter(loader))


def test_python_and_the_cause_of_an_error_count_too() -> None:
    assert shortage(MemoryError()) == "this computer is out of memory"
    wrapped = ValueError("outer")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert shortage(wrapped) == "the GPU is out of memory"


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_advice(lambda: "fit", "try less"):
        raise RuntimeError("shape mismatch")


@pytest.mark.gpu
def test_a_full_gpu() -> None:
    with pytest.raises(UserError, match="GPU"), memory_advice(lambda: "fit", "try less"):
        torch.empty(2**50, dtype=torch.uint8, device="cuda")
