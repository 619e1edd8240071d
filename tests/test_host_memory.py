"""Memory that is kept costs no page faults when it is used again."""

import subprocess
import sys

import pytest

from medsam2_ft.host_memory import keep_freed_memory

COUNT = """
import resource, sys
import torch
if sys.argv[1] == "kept":
    from medsam2_ft.module import FineTuner
    FineTuner(variant="tiny_test", weights="random", image_size=64).on_train_epoch_start()
def use():
    for _ in range(10):
        torch.empty(2**24).fill_(1)  # 64 MiB
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way: str) -> int:
    command = [sys.executable, "-c", COUNT, way]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's C library")
def test_training_uses_kept_memory_again_without_page_faults() -> None:
    # 32 per tensor with huge pages of 2 MiB, 16384 with pages of 4 KiB
    assert faults("kept") < 10 < 10 * 32 <= faults("returned")


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
