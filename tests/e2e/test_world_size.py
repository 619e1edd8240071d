"""Any number of processes: every sample once per epoch, also when the number changes on the way."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import synthetic
import torch
from training_process import Signalled, free_port, start, start_ranks

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 300
EPOCHS = 2
ACCUMULATED = 2
STEP = "medsam2_ft.module:FineTuner.training_step"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven labelled slices, which no number of ranks from 2 to 9 divides."""
    folder = tmp_path_factory.mktemp("data")
    synthetic.write_npz(folder / "train" / "a.npz", (8, 48, 48), labels=(1, 2), seed=1)
    synthetic.write_npz(folder / "train" / "b.npz", (9, 40, 48), labels=(1,), seed=2)
    synthetic.write_npz(folder / "val" / "c.npz", (5, 40, 48), labels=(1,), seed=3)
    return folder


def arguments(data: Path, run: Path) -> list[str]:
    values = {
        "run": run,
        "data.data_dir": data,
        "data.image_size": 64,
        "data.batch_size": 1,
        "data.num_workers": 0,
        "model.variant": "tiny_test",
        "model.weights": "random",
        "trainer.max_epochs": EPOCHS,
        "trainer.accelerator": "cpu",
        "trainer.accumulate_grad_batches": ACCUMULATED,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
        "trainer.num_sanity_val_steps": 0,
        "pictures.val_slices": 0,
        "ckpt_path": "last",
    }
    return ["fit", *(f"--{key}={value}" for key, value in values.items())]


def train_on(
    ranks: int, args: list[str], observed: Path, signalled_at: list[Signalled] | None = None
) -> None:
    """Trains to the end, or until the last rank is told to stop; both end with 0."""
    log = observed / "log"
    options: list[dict[str, Any]] = [{"observed": observed, "log": log} for _ in range(ranks)]
    options[-1]["signalled_at"] = signalled_at or []
    processes = start_ranks(args, options) if ranks > 1 else [start(args, **options[0])]
    for process in processes:
        process.join(LIMIT_S)
    assert [process.exitcode for process in processes] == [0] * ranks, log.read_text()


def notes(folder: Path, what: str) -> list[list[object]]:
    return [json.loads(line) for line in (folder / f"{what}.jsonl").read_text().splitlines()]


def samples(folder: Path) -> list[tuple[object, ...]]:
    return sorted(tuple(values) for _, *values in notes(folder, "samples"))


@pytest.fixture(scope="module")
def alone(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    observed = tmp_path_factory.mktemp("alone")
    train_on(1, arguments(source, observed / "run"), observed)
    of_epoch = [[s for s in samples(observed) if s[0] == epoch] for epoch in range(EPOCHS)]
    assert [len(set(epoch)) for epoch in of_epoch] == [len(epoch) for epoch in of_epoch]
    assert len(of_epoch[0]) == len(of_epoch[1]) > 10
    return observed


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks on a data set without a store."""
    observed = tmp_path_factory.mktemp("together")
    for seed, name in enumerate(("train/train_a", "train/train_b", "val/val_a", "val/val_b")):
        synthetic.write_npz(observed / "data" / f"{name}.npz", (8, 48, 48), seed=seed)
    train_on(2, arguments(observed / "data", observed / "run"), observed)
    return observed


def test_one_process_builds_the_store(together: Path) -> None:
    stored = notes(together, "stored")
    assert sorted(name for _, name in stored) == ["train_a", "train_b", "val_a", "val_b"]
    assert {rank for rank, _ in stored} == {"0"}


def test_gradients_are_exchanged_once_per_optimiser_step(together: Path) -> None:
    steps = notes(together, "steps")
    per_rank = [[count for rank, count in steps if rank == own] for own in ("0", "1")]
    batches = len(notes(together, "samples")) / 2
    assert len(per_rank[0]) < batches, "nothing is accumulated: the test shows nothing"
    assert set(per_rank[0]) == set(per_rank[1]) == {1}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (2, 1),
        (1, 2),
        pytest.param(2, 3, marks=pytest.mark.slow),
    ],
)
def test_another_number_of_ranks_loses_and_doubles_no_sample(
    before: int, after: int, source: Path, alone: Path, tmp_path: Path
) -> None:
    args = arguments(source, tmp_path / "run")
    train_on(before, args, tmp_path, [(STEP, 3, signal.SIGUSR1)])
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert (state["epoch"], state["global_step"]) == (0, 2), "it stops within the first epoch"
    first = samples(tmp_path)
    assert len(first) == 2 * ACCUMULATED * before
    train_on(after, args, tmp_path)
    assert samples(tmp_path) == samples(alone)


@pytest.mark.slow
def test_torchrun_starts_it(source: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    args = [*arguments(source, tmp_path / "run"), "--trainer.devices", "2"]
    done = subprocess.run(
        [*launcher, "--master_port", str(free_port()), "--", "train.py", *args],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert len(saved["random_states"]) == 2, "one for each process"
