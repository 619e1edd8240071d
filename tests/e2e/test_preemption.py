"""A run that is told to stop saves at once, wherever it is, and comes to the same end."""

import os
import signal
from pathlib import Path

import pytest
import run_files
import synthetic
import torch
from training_process import Signalled, start_ranks, train

LIMIT_S = 300
STEPS_PER_EPOCH = 3
STEP = "medsam2_ft.module:FineTuner.training_step"
VALIDATION = "medsam2_ft.module:FineTuner.validation_step"
VOLUME = "medsam2_ft.callbacks.propagation:score_volume"
WRITE = "medsam2_ft.checkpointing:write_checkpoint"
SANITY_BATCHES = 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 4, 0), ("val", 2, 100)):
        synthetic.write_folder(folder / split, count, seed=seed)
    return folder


def arguments(data: Path, run: Path, **options: object) -> list[str]:
    """Two epochs of three steps of two batches; nothing is saved before the end by itself."""
    values = {
        "run": run,
        "data.data_dir": data,
        "data.image_size": 64,
        "data.batch_size": 2,
        "data.num_workers": 0,
        "model.variant": "tiny_test",
        "model.weights": "random",
        "model.lr_encoder": 1e-3,
        "trainer.max_epochs": 2,
        "trainer.limit_train_batches": 2 * STEPS_PER_EPOCH,
        "trainer.accumulate_grad_batches": 2,
        "trainer.accelerator": "cpu",
        "trainer.log_every_n_steps": 1,
        "trainer.num_sanity_val_steps": SANITY_BATCHES,
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
        "pictures.val_slices": 0,
        "last.every_n_steps": 0,
        "last.every_n_epochs": 9,
        "ckpt_path": "last",
    }
    return ["fit", *(f"--{key}={value}" for key, value in (values | options).items())]


def assert_same_end(run: Path, reference: Path) -> None:
    run_files.assert_same_end(run, reference, 2 * STEPS_PER_EPOCH)
    assert volume_rows(run) == volume_rows(reference)


def volume_rows(run: Path) -> list[str]:
    return (run / "volume_scores.csv").read_text().splitlines()


def saved_step(run: Path) -> int:
    return int(torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"])


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    log = run.parent / "log"
    assert train(arguments(data, run), log=log) == 0, log.read_text()
    rows = run_files.rows(run)
    assert sum("val/volume_dsc" in row for row in rows) == 2, "it validates in both epochs"
    return run


@pytest.mark.parametrize(
    ("moments", "code", "step"),
    [
        pytest.param(
            [(STEP, 2, signal.SIGUSR1)],
            0,
            2,
            id="first batch of a step: its second one is done",
            marks=pytest.mark.slow,
        ),
        pytest.param([(STEP, 5, signal.SIGTERM)], 143, 3, id="last step of an epoch"),
        pytest.param([(VALIDATION, SANITY_BATCHES + 1, signal.SIGUSR1)], 0, 3, id="validation"),
        pytest.param([(VOLUME, 1, signal.SIGUSR1)], 0, 3, id="volumes"),
        pytest.param(
            [(STEP, 1, signal.SIGUSR1), (WRITE, 0, signal.SIGTERM), (WRITE, 0, signal.SIGUSR1)],
            0,
            1,
            id="again while saving",
        ),
    ],
)
def test_saved_at_once_and_resumed(
    moments: list[Signalled], code: int, step: int, data: Path, reference: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    args = arguments(data, run)
    assert train(args, signalled_at=moments, log=log) == code, log.read_text()
    assert saved_step(run) == step
    assert f"at step {step}, saved; add --ckpt_path last to go on" in log.read_text()
    assert train(args, log=log) == 0, log.read_text()
    assert_same_end(run, reference)


def test_a_signal_before_training_leaves_nothing_to_resume(data: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    assert (
        train(arguments(data, run), signalled_at=[(VALIDATION, 0, signal.SIGTERM)], log=log) == 143
    )
    assert "stopped by SIGTERM" in log.read_text()
    assert not (run / "checkpoints/last.ckpt").exists()


def test_a_signal_while_the_store_is_built_keeps_what_is_stored(tmp_path: Path) -> None:
    synthetic.write_folder(tmp_path / "data" / "train", 4)
    run, log = tmp_path / "run", tmp_path / "log"
    args = arguments(tmp_path / "data", run)
    moment = ("medsam2_ft.data.build:build_case", 1, signal.SIGUSR1)
    assert train(args, signalled_at=[moment], log=log) == 138, log.read_text()
    assert len(list((tmp_path / "data/.store/cases").iterdir())) == 2
    assert "Traceback" not in log.read_text()


def test_a_finished_training_is_not_stopped(data: Path, reference: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    moment = ("medsam2_ft.callbacks.export:ExportWeights.on_train_end", 0, signal.SIGUSR1)
    assert train(arguments(data, run), signalled_at=[moment], log=log) == 0, log.read_text()
    assert "stopped by" not in log.read_text()
    assert_same_end(run, reference)


def on_ranks(
    args: list[str],
    log: Path,
    moments: dict[int, list[Signalled]] | None = None,
    environment: dict[str, str] | None = None,
) -> list[int | None]:
    """Trains on two ranks; returns their exit codes."""
    ranks = start_ranks(
        args,
        [{"signalled_at": (moments or {}).get(rank, []), "log": log} for rank in range(2)],
        environment,
    )
    for process in ranks:
        process.join(LIMIT_S)
    return [process.exitcode for process in ranks]


@pytest.fixture(scope="module")
def reference_of_two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    log = run.parent / "log"
    assert on_ranks(arguments(data, run), log) == [0, 0], log.read_text()
    return run


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a running task of a job array, with a ``scontrol`` that takes notes."""
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    shown = (
        "JobId=18 ArrayJobId=17 ArrayTaskId=3 JobState=RUNNING Reason=None Requeue=1 BatchFlag=1"
    )
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f'[ "$1" = requeue ] || echo "{shown} PreemptTime=None"\n'
    )
    program.chmod(0o755)
    return {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "18",
        "SLURM_ARRAY_JOB_ID": "17",
        "SLURM_ARRAY_TASK_ID": "3",
    }


@pytest.mark.parametrize("moment", [(STEP, 2), pytest.param((VOLUME, 0), marks=pytest.mark.slow)])
def test_a_signal_to_one_rank_saves_and_requeues_once(
    moment: tuple[str, int],
    slurm: dict[str, str],
    data: Path,
    reference_of_two: Path,
    tmp_path: Path,
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    args = arguments(data, run)
    codes = on_ranks(args, log, {1: [(*moment, signal.SIGUSR1)]}, slurm)
    assert codes == [0, 0], log.read_text()
    assert "saved; job 17_3 is requeued" in log.read_text()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["--oneliner show job 17_3", "requeue 17_3"]
    assert on_ranks(args, log) == [0, 0], log.read_text()
    assert_same_end(run, reference_of_two)
