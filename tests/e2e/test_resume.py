"""A run that is killed and resumed ends bit for bit where the uninterrupted one ends."""

import random
import shutil
from pathlib import Path

import pytest
import synthetic
import torch
from run_files import rows
from training_process import train

EPOCHS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 4, 0), ("val", 2, 100)):
        (folder / split).mkdir()
        synthetic.write_folder(folder / split, count, seed=seed)
    return folder


def arguments(data: Path, run: Path, workers: int = 0) -> list[str]:
    values = {
        "run": run,
        "data.data_dir": data,
        "data.image_size": 64,
        "data.batch_size": 2,
        "data.num_workers": workers,
        "model.variant": "tiny_test",
        "model.weights": "random",
        "model.lr_encoder": 1e-3,
        "model.lr_decoder": 1e-3,
        "trainer.max_epochs": EPOCHS,
        "trainer.accelerator": "cpu",
        "trainer.log_every_n_steps": 1,
        "trainer.accumulate_grad_batches": 2,
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
        "pictures.every_n_epochs": 1,
        "last.every_n_steps": 2,
        "ckpt_path": "last",
    }
    return ["fit", *(f"--{key}={value}" for key, value in values.items())]


def assert_same_result(run: Path, reference: Path) -> None:
    for name in ("exports/best.pt", "exports/last.pt"):
        state, expected = (
            torch.load(folder / name, weights_only=True)["model"] for folder in (run, reference)
        )
        different = [key for key in expected if not torch.equal(state[key], expected[key])]
        assert not different, f"{name}: {len(different)} tensors differ"
    ours, theirs = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
        for folder in (run, reference)
    )
    best = [
        next(v for k, v in c["callbacks"].items() if "BestCheckpoint" in k)["best_model_score"]
        for c in (ours, theirs)
    ]
    assert best[0] == best[1]
    assert ours["global_step"] == theirs["global_step"]
    assert rows(run) == rows(reference)
    volumes, expected = (
        sorted((f / "volume_scores.csv").read_text().splitlines()) for f in (run, reference)
    )
    assert volumes == expected


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    log = run.parent / "log"
    assert train(arguments(data, run), log=log) == 0, log.read_text()
    # the run is worth comparing: it learned something and validated in every epoch
    logged = rows(run)
    assert sum("val/volume_dsc" in row for row in logged) == EPOCHS
    assert len({row["train/loss"] for row in logged if "train/loss" in row}) > 4
    return run


def kill_and_resume(
    data: Path,
    run: Path,
    moment: tuple[str, int],
    workers: int,
    environment: dict[str, str] | None = None,
) -> None:
    log = run.parent / "log"
    args = arguments(data, run, workers)
    killed = train(args, killed_at=moment, environment=environment, log=log)
    assert killed == -9, log.read_text()
    assert train(args, log=log) == 0, log.read_text()


CASES = [
    pytest.param(("batch", 7), 0, id="middle of an epoch"),
    pytest.param(("before_validation", 1), 0, id="between last batch and validation"),
    pytest.param(("batch", 9), 0, id="first batch of the second epoch, behind the best one"),
    pytest.param(("batch", 6), 2, id="middle of an epoch, two workers"),
    pytest.param(("batch", 8), 2, id="last batch of an epoch, two workers", marks=pytest.mark.slow),
    pytest.param(("before_validation", 0), 2, id="first validation", marks=pytest.mark.slow),
    pytest.param(("batch", 0), 0, id="first batch: nothing saved yet", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("moment", "workers"), CASES)
def test_killed_and_resumed(
    moment: tuple[str, int], workers: int, data: Path, reference: Path, tmp_path: Path
) -> None:
    kill_and_resume(data, tmp_path / "run", moment, workers)
    assert_same_result(tmp_path / "run", reference)


def test_killed_at_random(data: Path, reference: Path, tmp_path: Path) -> None:
    batch = random.SystemRandom().randrange(1, len(rows(reference)))
    print(f"killed at batch {batch}")
    kill_and_resume(data, tmp_path / "run", ("batch", batch), 0)
    assert_same_result(tmp_path / "run", reference)


@pytest.mark.parametrize("write", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_during_a_checkpoint_write(
    write: int, data: Path, reference: Path, tmp_path: Path
) -> None:
    """The temporary folder lies on another file system, where a move would be a copy."""
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    run = tmp_path / "run"
    kill_and_resume(
        data, run, ("checkpoint_write", write), 0, environment={"TMPDIR": str(shared_memory)}
    )
    assert_same_result(run, reference)


def test_killed_between_the_last_checkpoint_and_its_export(
    data: Path, reference: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(reference, tmp_path / "run")
    for file in (run / "exports").glob("last.*"):
        file.unlink()
    assert train(arguments(data, run)) == 0
    assert_same_result(run, reference)
    assert (run / "exports/last.json").is_file()


def test_a_kill_leaves_readable_checkpoints(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(arguments(data, run), killed_at=("checkpoint_write", 2)) == -9
    whole = [path for path in (run / "checkpoints").iterdir() if not path.name.startswith(".")]
    assert whole
    for path in whole:
        torch.load(path, weights_only=True)
