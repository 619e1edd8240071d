"""Ctrl-C and SIGTERM end a run in one line, with W&B finished, and it goes on where it was."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic
import torch
import wandb_files
from run_files import assert_same_end, rows, wait_for_rows
from training_process import start, train

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 3
BATCHES = 6
STEPS = EPOCHS * BATCHES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 4, 0), ("val", 2, 100)):
        synthetic.write_folder(folder / split, count, seed=seed)
    return folder


def arguments(data: Path, run: Path, **options: object) -> list[str]:
    values = {
        "run": run,
        "data.data_dir": data,
        "data.image_size": 64,
        "data.batch_size": 2,
        "data.num_workers": 0,
        "model.variant": "tiny_test",
        "model.weights": "random",
        "trainer.max_epochs": EPOCHS,
        "trainer.limit_train_batches": BATCHES,
        "trainer.accelerator": "cpu",
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
        "pictures.val_slices": 0,
        "last.every_n_steps": 4,
        "wandb.mode": "offline",
        "ckpt_path": "last",
    }
    return ["fit", *(f"--{key}={value}" for key, value in (values | options).items())]


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    log = run.parent / "log"
    assert train(arguments(data, run, **{"wandb.mode": "off"}), log=log) == 0, log.read_text()
    return run


@pytest.mark.parametrize(
    ("stop", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted; add --ckpt_path last to go on"),
        (signal.SIGUSR1, 0, "saved; add --ckpt_path last to go on"),
        (signal.SIGTERM, 143, "saved; add --ckpt_path last to go on"),
    ],
)
def test_stopped_and_resumed(
    stop: signal.Signals, code: int, said: str, data: Path, reference: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    process = start(arguments(data, run), log=log)
    wait_for_rows(run, 10, process.is_alive)
    os.kill(process.pid, stop)
    process.join(60)
    text = log.read_text()
    assert process.exitcode == code, text
    assert "Traceback" not in text
    assert "KeyboardInterrupt" not in text
    assert text.count(said) == 1
    assert len(rows(run)) < len(rows(reference))
    assert train(arguments(data, run), log=log) == 0, log.read_text()
    assert_same_end(run, reference, STEPS)
    first, second = wandb_files.starts(run)
    assert (wandb_files.exit_code(first), wandb_files.exit_code(second)) == (1, 0)
    assert wandb_files.run_ids(first) == wandb_files.run_ids(second)
    curves = [
        [row["trainer/global_step"] for row in wandb_files.history(file) if "train/loss" in row]
        for file in (first, second)
    ]
    assert curves[0] == list(range(len(curves[0]))), "the tail was lost"
    assert curves[1] == list(range(curves[1][0], STEPS))
    assert curves[1][0] <= len(curves[0]), "a gap between the two starts"


@pytest.mark.parametrize("checkpoint", [2, 3])  # within the second epoch, and at its end
def test_metrics_are_complete_up_to_the_checkpoint_after_sigkill(
    checkpoint: int, data: Path, reference: Path, tmp_path: Path
) -> None:
    """Killed right behind the rename, before Lightning gives the step's metrics to the loggers."""
    run, log = tmp_path / "run", tmp_path / "log"
    args = arguments(data, run)
    assert train(args, killed_at=("checkpoint_written", checkpoint), log=log) == -9
    step = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    logged = [int(row["step"]) for row in rows(run) if "train/loss" in row]
    assert logged == list(range(step))
    (first,) = wandb_files.starts(run)
    assert wandb_files.exit_code(first) is None
    assert train(args, log=log) == 0, log.read_text()
    assert_same_end(run, reference, STEPS)


def test_sigterm_between_two_volumes(data: Path, tmp_path: Path) -> None:
    """A split may take longer to segment than a cluster waits."""
    run, log = tmp_path / "run", tmp_path / "log"
    moment = ("medsam2_ft.callbacks.propagation:score_volume", 0, signal.SIGTERM)
    assert train(arguments(data, run), signalled_at=[moment], log=log) == 143
    assert not (run / "volume_scores.csv").exists()
    (first,) = wandb_files.starts(run)
    assert wandb_files.exit_code(first) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "code", "options"),
    [
        pytest.param(signal.SIGINT, 130, {"data.num_workers": 2}, id="Ctrl-C, workers"),
        pytest.param(signal.SIGTERM, 143, {"data.num_workers": 2}, id="SIGTERM, workers"),
        pytest.param(
            signal.SIGTERM,
            143,
            {"trainer.devices": 2, "trainer.strategy": "ddp"},
            id="SIGTERM, two ranks",
        ),
    ],
)
def test_the_whole_process_group_gets_the_signal(
    stop: signal.Signals, code: int, options: dict[str, object], data: Path, tmp_path: Path
) -> None:
    """As from a terminal or a scheduler, which signal workers, ranks and W&B's service too."""
    run, log = tmp_path / "run", tmp_path / "log"
    args = arguments(data, run, **options, **{"trainer.max_epochs": 50})
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "train.py", *args],
            cwd=ROOT,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        wait_for_rows(run, 10, lambda: process.poll() is None)
        os.killpg(process.pid, stop)
        process.wait(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text()
    assert process.returncode == code, text
    assert "Traceback" not in text
    (file,) = wandb_files.starts(run)
    steps = [r["trainer/global_step"] for r in wandb_files.history(file) if "train/loss" in r]
    assert steps == list(range(len(steps)))
    assert len(steps) >= 9
