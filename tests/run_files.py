"""Reads what a training leaves in its run folder, to compare it with another one."""

import csv
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SPEED_COLUMNS = ("speed/", "memory/")


def rows(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without speeds, without empty cells."""
    with (run / "metrics.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if v and not k.startswith(SPEED_COLUMNS)}
            for row in csv.DictReader(file)
        ]


def wait_for_rows(run: Path, count: int, is_alive: Callable[[], bool]) -> None:
    """Returns when the run has logged so many rows."""
    for _ in range(6000):
        if (run / "metrics.csv").is_file() and len(rows(run)) >= count:
            return
        assert is_alive(), "the run ended too early"
        time.sleep(0.01)
    pytest.fail("the run logs nothing")


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The tensors of ``last.pt``."""
    state: dict[str, torch.Tensor] = torch.load(run / "exports/last.pt", weights_only=True)["model"]
    return state


def assert_same_end(run: Path, reference: Path, steps: int) -> None:
    """The same weights bit for bit, and every step's metrics once."""
    state, expected = weights(run), weights(reference)
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []
    assert rows(run) == rows(reference)
    assert [row["step"] for row in rows(run) if "train/loss" in row] == list(map(str, range(steps)))
