"""A run and its resumption, read back from the files that W&B wrote offline."""

import json
from pathlib import Path
from typing import Any

import pytest
import synthetic
import torch
import wandb_files
import yaml
from PIL import Image
from training_process import train

BATCHES = 3  # of an epoch


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, seed in (("train", 0), ("val", 100)):
        synthetic.write_npz(folder / split / "case.npz", seed=seed)
    return folder


def fit(run: Path, data: Path, epochs: int, log: Path, **options: object) -> None:
    values = {
        "run": run,
        "seed_everything": 7,
        "data.data_dir": data,
        "data.image_size": 64,
        "data.batch_size": 2,
        "data.num_workers": 0,
        "data.negative_share": 0.25,
        "model.variant": "tiny_test",
        "model.weights": "random",
        "model.lr_encoder": 3e-4,
        "trainer.max_epochs": epochs,
        "trainer.limit_train_batches": BATCHES,
        "trainer.accelerator": "cpu",
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
        "wandb.mode": "offline",
        "wandb.project": "tests",
        "ckpt_path": "last",
    }
    args = [f"--{key}={value}" for key, value in (values | options).items()]
    assert train(["fit", *args], log=log) == 0, log.read_text()


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch, resumed for a second one."""
    run = tmp_path_factory.mktemp("tracked") / "run"
    for epochs in (1, 2):
        fit(run, data, epochs, run.parent / "log")
    return run


def rows_of(run: Path, key: str) -> list[dict[str, Any]]:
    """Rows of all starts with a value whose name is ``key`` or starts with it and a dot."""
    rows = [row for file in wandb_files.starts(run) for row in wandb_files.history(file)]
    return [row for row in rows if any(k == key or k.startswith(f"{key}.") for k in row)]


def test_every_start_has_a_folder_under_one_id(run: Path) -> None:
    files = wandb_files.starts(run)
    assert len(files) == 2
    expected = {(run / "wandb_id").read_text()}
    assert [wandb_files.run_ids(file) for file in files] == [expected, expected]
    assert [wandb_files.exit_code(file) for file in files] == [0, 0]
    for name in ("last", "best"):
        checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert {checkpoint["wandb_id"]} == expected


def test_configuration_of_model_data_and_seed(run: Path) -> None:
    first, second = (wandb_files.config(file) for file in wandb_files.starts(run))
    assert first["seed_everything"] == 7
    assert first["model"]["variant"] == "tiny_test"
    assert first["model"]["lr_encoder"] == 3e-4
    assert first["model"]["multimask_weight"] == 1.0  # a default counts too
    assert first["data"]["negative_share"] == 0.25
    assert first["data"]["image_size"] == 64
    assert first["trainer"]["max_epochs"] == 1
    assert second["trainer"]["max_epochs"] == 2
    saved = yaml.safe_load((run / "config.yaml").read_text())
    for group in ("model", "data", "propagation", "best"):
        assert second[group] == saved[group]


def test_curves_are_complete_and_equal_metrics_csv(run: Path) -> None:
    for name in ("train/loss", "train/dsc", "lr/encoder", "grad_norm", "memory/peak_gib"):
        steps = [row["trainer/global_step"] for row in rows_of(run, name)]
        assert steps == list(range(2 * BATCHES)), name
    assert [row["trainer/global_step"] for row in rows_of(run, "val/volume_dsc")] == [2, 5]
    lines = (run / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("train/loss")
    in_file = [float(cell) for line in lines[1:] if (cell := line.split(",")[column])]
    assert [row["train/loss"] for row in rows_of(run, "train/loss")] == in_file


def test_the_table_holds_every_label_of_every_volume(run: Path) -> None:
    files = wandb_files.starts(run)
    assert len(rows_of(run, "val/volume_scores")) == 2
    for file, value in zip(files, ([1, 0], [2, 1]), strict=True):
        (row,) = (r for r in wandb_files.history(file) if "val/volume_scores.path" in r)
        table = json.loads((file.parent / "files" / row["val/volume_scores.path"]).read_text())
        assert {"epoch", "case", "label_name", "dsc", "nsd"} <= set(table["columns"])
        scores = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
        assert [s["label"] for s in scores] == [1, 2, 3]
        assert {s["epoch"] for s in scores} == {value[1]}
        assert all(0 <= s["dsc"] <= 1 for s in scores)


@pytest.mark.parametrize("name", ["pictures/train_batch", "pictures/val_slices"])
def test_pictures_are_there(name: str, run: Path) -> None:
    for file in wandb_files.starts(run):
        (row,) = (r for r in wandb_files.history(file) if f"{name}.filenames" in r)
        with Image.open(file.parent / "files" / row[f"{name}.filenames"][0]) as picture:
            assert picture.size == (row[f"{name}.width"], row[f"{name}.height"])
            assert len(picture.getcolors(maxcolors=10**6)) > 100


def test_a_checkpoint_takes_its_id_along(run: Path, data: Path, tmp_path: Path) -> None:
    """Resumed into another run folder, it stays the same W&B run."""
    checkpoint = run / "checkpoints" / "last.ckpt"
    fit(tmp_path / "moved", data, 3, tmp_path / "log", ckpt_path=checkpoint)
    (file,) = wandb_files.starts(tmp_path / "moved")
    assert wandb_files.run_ids(file) == {(run / "wandb_id").read_text()}


def test_the_terminal_holds_what_a_user_needs(run: Path) -> None:
    text = (run.parent / "log").read_text()
    for line in (
        f"no checkpoint in {run}: fresh start",
        f"resuming from {run / 'checkpoints' / 'last.ckpt'}",
        f"run folder: {run}",
        f"best checkpoint: {run / 'checkpoints' / 'best.ckpt'}  (val/volume_dsc 0.",
        f"best export:     {run / 'exports' / 'best.pt'}",
        f"last export:     {run / 'exports' / 'last.pt'}",
        f"wandb sync {wandb_files.starts(run)[0].parent}",
    ):
        assert line in text
    for noise in (
        "litlogger",
        "LeafSpec",
        "logging interval",
        "anonymous",
        "TPU",
        "Loading `",
        "not empty",
    ):
        assert noise not in text
