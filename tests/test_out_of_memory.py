"""Shortages of memory, made for real, become one line."""

import importlib
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

from medsam2_ft.__main__ import COMMANDS
from medsam2_ft.command import run_command
from medsam2_ft.errors import UserError
from medsam2_ft.out_of_memory import command_remedies, memory_advice, shortage

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


TRAIN = """
import resource, sys
from pathlib import Path
import medsam2_ft.cli, monai.losses
from medsam2_ft.entry import run
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20, resource.RLIM_INFINITY))
sys.exit(run(lambda: medsam2_ft.cli.main(sys.argv[1:])))
"""
TINY = {
    "model.variant": "tiny_test",
    "model.weights": "random",
    "trainer.accelerator": "cpu",
    "trainer.num_sanity_val_steps": "0",
    "trainer.max_epochs": "1",
    "data.num_workers": "0",
    "data.image_size": "1024",
    "wandb.mode": "off",
}


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


@pytest.mark.slow
@pytest.mark.parametrize(("command", "stage"), [("fit", "fit, train"), ("validate", "validate")])
def test_training_that_does_not_fit_is_one_line(
    command: str, stage: str, make_case: Callable[..., Path], tmp_path: Path
) -> None:
    for seed, split in enumerate(("train", "val")):
        (tmp_path / "cases" / split).mkdir(parents=True)
        case = make_case(f"CT_{split}", shape_zyx=(24, 64, 64), seed=seed)
        case.rename(tmp_path / "cases" / split / case.name)
    options = TINY | {"data.data_dir": str(tmp_path / "cases"), "data.batch_size": "24"}
    options |= {"run": str(tmp_path / "run")}
    given = [f"--{key}={value}" for key, value in options.items()]
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, command, *given],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(f"error: {stage} (image_size 1024, batch_size 24,"), line
    assert "this computer is out of memory; try in this order: a smaller --preset" in line


def test_the_remedies_of_a_command_are_options_that_it_has() -> None:
    for name, entry in COMMANDS.items():
        function = getattr(importlib.import_module(entry.module), entry.function)
        with redirect_stdout(StringIO()) as text, pytest.raises(SystemExit):
            run_command(function, name, ["--help"])
        named = set(re.findall(r"--\w+", command_remedies(function)))
        assert named <= set(re.findall(r"--\w+", text.getvalue())), name
        assert name not in ("segment", "evaluate") or {"--image_size", "--device"} <= named


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
