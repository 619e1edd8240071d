"""Two processes with half the batch each train as one process with the whole batch."""

import csv
from pathlib import Path

import pytest
import synthetic
import torch
from training_process import start_ranks, train

STEPS = 20
LIMIT_S = 300


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices that two ranks cannot share evenly, with one or three objects; three volumes."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        (folder / split).mkdir()
    synthetic.write_folder(folder / "train", 4, labels=(1, 2, 3))
    synthetic.write_npz(folder / "train" / "single_a.npz", (7, 48, 48), labels=(1,), seed=7)
    synthetic.write_npz(folder / "train" / "single_b.npz", (8, 40, 48), labels=(1,), seed=8)
    synthetic.write_folder(folder / "val", 4, seed=100)
    return folder


def arguments(data: Path, run: Path, batch_size: int) -> list[str]:
    values = {
        "run": run,
        "data.data_dir": data,
        "data.image_size": 64,
        "data.batch_size": batch_size,
        "data.num_workers": 0,
        "data.negative_share": 0.3,
        "model.variant": "tiny_test",
        "model.weights": "random",
        "trainer.max_steps": STEPS,
        "trainer.max_epochs": -1,
        "trainer.log_every_n_steps": 1,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
        "trainer.num_sanity_val_steps": 0,
    }
    return ["fit", *(f"--{key}={value}" for key, value in values.items())]


def train_on_two_ranks(args: list[str], probe: Path, log: Path) -> None:
    ranks = start_ranks(args, [{"probe": probe, "log": log}] * 2)
    for process in ranks:
        process.join(LIMIT_S)
    assert [process.exitcode for process in ranks] == [0, 0], log.read_text()


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the one-process and of the two-process training."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    log = one / "log"
    assert train(arguments(data, one / "run", 4), probe=one, log=log) == 0, log.read_text()
    train_on_two_ranks(arguments(data, two / "run", 2), two, two / "log")
    return one, two


def probe_of(folder: Path, rank: int) -> dict:
    return torch.load(folder / f"rank{rank}.pt", weights_only=True)


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[key] - b[key]).abs().max().item() for key in a)


def test_first_gradient_is_the_same(runs: tuple[Path, Path]) -> None:
    one, two = runs
    whole, first, second = probe_of(one, 0), probe_of(two, 0), probe_of(two, 1)
    assert first["prompts"] != second["prompts"], "the ranks must hold different numbers of prompts"
    assert first["prompts"] + second["prompts"] == whole["prompts"]
    scale = max(g.abs().max().item() for g in whole["gradients"].values())
    assert scale > 1e-2
    for half in (first, second):
        assert largest_difference(whole["gradients"], half["gradients"]) < 1e-6 * max(1, scale)


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run / "run" / "exports" / f"{name}.pt", weights_only=True)["model"]


def test_weights_after_twenty_steps_are_the_same(runs: tuple[Path, Path]) -> None:
    one, two = runs
    assert largest_difference(weights(one), weights(two)) < 1e-5
    moved = {
        key: probe_of(one, 0)["gradients"][f"model.core.{key}"].abs().max()
        for key in (
            "sam_mask_decoder.mask_tokens.weight",
            "image_encoder.trunk.patch_embed.proj.bias",
        )
    }
    assert min(moved.values()) > 0


def volume_rows(run: Path) -> list[dict[str, str]]:
    with (run / "run" / "volume_scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_of_three_volumes_is_validated_once(runs: tuple[Path, Path]) -> None:
    one, two = (volume_rows(run) for run in runs)
    keys = [(row["epoch"], row["case"], row["label"]) for row in two]
    assert len(keys) == len(set(keys))
    assert sorted(keys) == sorted((row["epoch"], row["case"], row["label"]) for row in one)
    assert len({row["case"] for row in two}) == 3
    scores = {key: float(row["dsc"]) for key, row in zip(keys, two, strict=True)}
    for row in one:
        key = (row["epoch"], row["case"], row["label"])
        assert scores[key] == pytest.approx(float(row["dsc"]), abs=0.02)


def logged(run: Path, name: str) -> list[float]:
    with (run / "run" / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_training_means_are_those_of_all_ranks(runs: tuple[Path, Path]) -> None:
    one, two = (logged(run, "train/loss") for run in runs)
    assert len(one) == len(two) == STEPS
    assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("name", ["val/dice_loss", "val/volume_dsc"])
def test_validation_means_agree(name: str, runs: tuple[Path, Path]) -> None:
    one, two = (logged(run, name) for run in runs)
    assert len(one) == len(two) > 0
    assert two == pytest.approx(one, abs=0.01)
