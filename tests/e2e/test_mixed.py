"""One model on everything at once: volumes, videos and images, gray and colour, all modalities."""

import csv
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from mixed_set import write_mixed_set
from refusals import OPTIONS, Refused, assert_says, train
from training_process import train as train_in_process

from medsam2_ft.callbacks.propagation import PropagationValidation
from medsam2_ft.cli import main
from medsam2_ft.data.datamodule import SliceDataModule
from medsam2_ft.module import FineTuner
from medsam2_ft.types import MODALITIES

DEEP = {"CT": "scans/a", "PET": "scans/b", "endoscopy": "pictures/a"}
FLAT = {"dermoscopy": "skin", "OCT": "retina", "fundus": "eye", "microscopy": "cells"}
WEIGHTS: dict[str, str] = {
    "data.dataset_weights": '{"scans": 2}',
    "data.modality_weights": '{"microscopy": 3, "fundus": 0.5}',
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_mixed_set(tmp_path_factory.mktemp("mixed"))


def listed(folders: list[Path]) -> str:
    return json.dumps([str(folder) for folder in folders])


@pytest.fixture(scope="module")
def run(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch with weights and regions, then predictions of every case."""
    run = tmp_path_factory.mktemp("mixed_run") / "run"
    values = OPTIONS | WEIGHTS | {"run": run, "data.data_dir": listed(folders)}
    values |= {"data.batch_size": 4, "data.regions": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        main(["fit", *(f"--{k}={v}" for k, v in values.items())])
        values["ckpt_path"] = "last"
        main(["predict", *(f"--{k}={v}" for k, v in values.items())])
    return run


def logged(run: Path) -> dict[str, float]:
    """What the only validation logged."""
    with (run / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return {k: float(v) for k, v in last.items() if v and k.startswith("val/")}


def scores(run: Path) -> list[dict[str, str]]:
    with (run / "volume_scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def dice(pred: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (pred & truth).sum() / (pred.sum() + truth.sum()))


def test_every_modality_has_its_own_numbers(run: Path) -> None:
    values = logged(run)
    named = {name.split("/")[1] for name in values if name.count("/") == 2} & set(MODALITIES)
    assert named == {*DEEP, *FLAT}
    for metric in ("dsc", "loss"):
        found = [values[f"val/{modality}/{metric}"] for modality in named]
        assert all(math.isfinite(value) for value in found)
        assert len(set(found)) == len(found), "modalities must not share a number"
    deep = {name for name in values if name.endswith("/volume_dsc")} - {"val/volume_dsc"}
    assert deep == {f"val/{modality}/volume_dsc" for modality in DEEP}
    mean = np.mean([values[name] for name in deep])
    assert values["val/volume_dsc"] == pytest.approx(mean, abs=1e-6)


def test_images_are_not_scored_as_volumes_and_volumes_once(run: Path) -> None:
    counts = Counter((row["case"], row["modality"], row["label_name"]) for row in scores(run))
    assert counts == {
        ("scans/a", "CT", "liver"): 1,
        ("scans/a", "CT", "2"): 1,
        ("scans/a", "CT", "both"): 1,
        ("scans/b", "PET", "1"): 1,
        ("pictures/a", "endoscopy", "3"): 1,
    }


def test_volume_numbers_are_those_of_the_saved_predictions(run: Path, folders: list[Path]) -> None:
    values = logged(run)
    for modality, label in (("PET", 1), ("endoscopy", 3)):
        folder, stem = DEEP[modality].split("/")
        with np.load(folders[0].parent / folder / "val" / f"{stem}.npz") as file:
            truth = file["gts"] == label
        name = f"val/{stem}" if stem in ("a", "b") else stem
        with np.load(run / "predictions" / folder / f"{name}.npz") as file:
            expected = dice(file["gts"] == label, truth)
        assert 0 < expected < 1
        assert values[f"val/{modality}/volume_dsc"] == pytest.approx(expected, abs=1e-6)
    found = {row["label_name"]: float(row["dsc"]) for row in scores(run) if row["modality"] == "CT"}
    assert values["val/CT/volume_dsc"] == pytest.approx(np.mean(list(found.values())), abs=1e-6)
    assert values["val/volume_dsc/both"] == pytest.approx(found["both"], abs=1e-6)


def test_predictions_of_equal_names_do_not_overwrite_each_other(run: Path) -> None:
    files = {
        p.relative_to(run / "predictions").as_posix() for p in run.rglob("predictions/**/*.npz")
    }
    expected = {
        f"{name.replace('/', f'/{split}/')}.npz"
        for name in DEEP.values()
        for split in ("train", "val")
    }
    assert expected < files
    assert len(files) == 14


@pytest.mark.parametrize("modality", [*DEEP, *FLAT])
def test_alone_a_modality_scores_what_it_scores_in_the_mix(
    modality: str, run: Path, folders: list[Path], tmp_path: Path
) -> None:
    """Validates the same weights on a data set that holds nothing else."""
    stem = DEEP.get(modality, f"pictures/{FLAT.get(modality)}")
    source = folders[0].parent / Path(stem).parent / "val" / f"{Path(stem).name}.npz"
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / source.name).symlink_to(source)
    data = SliceDataModule(str(tmp_path), image_size=64, num_workers=0, regions=True)
    module = FineTuner.load_from_checkpoint(run / "checkpoints/last.ckpt", weights_only=True)
    trainer = quiet_trainer(tmp_path, callbacks=[PropagationValidation()])
    trainer.validate(module, datamodule=data, verbose=False)
    values = logged(run)
    alone = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for metric in ("dsc", "loss", *(("volume_dsc", "volume_nsd") if modality in DEEP else ())):
        assert values[f"val/{modality}/{metric}"] == pytest.approx(alone[f"val/{metric}"], rel=1e-5)


def quiet_trainer(root: Path, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{"devices": 1} | options,
    )


class Dump(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(values))


def test_two_ranks_agree_where_one_has_no_case_of_a_modality(
    folders: list[Path], tmp_path: Path
) -> None:
    module = FineTuner(variant="tiny_test", weights="random", image_size=64)
    # One slice only: the other rank has nothing but padding.
    lonely = tmp_path / "lonely"
    (lonely / "val").mkdir(parents=True)
    (lonely / "val/skin.npz").symlink_to(folders[1] / "val/skin.npz")
    for given in (folders, [lonely]):
        data = SliceDataModule([str(f) for f in given], image_size=64, batch_size=2, num_workers=0)
        found = []
        for options in ({}, {"devices": 2, "strategy": "ddp_fork"}):
            folder = tmp_path / f"{len(given)}{len(found)}"
            folder.mkdir()
            callbacks = [PropagationValidation(max_volumes=2), Dump(folder)]
            trainer = quiet_trainer(folder, callbacks=callbacks, **options)
            trainer.validate(module, datamodule=data, verbose=False)
            found.append([json.loads(p.read_text()) for p in sorted(folder.glob("rank*.json"))])
        ((single,), (first, second)) = found
        assert first == second
        assert first == pytest.approx(single, rel=1e-5)
        assert "val/dermoscopy/dsc" in single


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"data.dataset_weights": '{"scan": 2}'}, ["data.dataset_weights", "'scan'", "pictures"]),
        ({"data.modality_weights": '{"Ct": 2}'}, ["data.modality_weights", "'Ct'", "CT, MR"]),
        ({"data.modality_weights": '{"MR": 2}'}, ["'MR'", "CT, OCT, PET, dermoscopy, endoscopy"]),
        ({"data.modality_weights": '{"CT": -1}'}, ["CT the weight -1", "0 or more"]),
        ({"data.modality_weights": '{"CT": .nan}'}, ["CT the weight nan", "0 or more"]),
        ({"data.dataset_weights": '{"scans": 0, "pictures": 0}'}, ["leave no case to train on"]),
    ],
)
def test_bad_weights_are_refused(
    options: dict[str, str], parts: list[str], folders: list[Path], tmp_path: Path, refused: Refused
) -> None:
    values: dict[str, Any] = {"data.data_dir": listed(folders)} | options
    assert_says(refused(train("fit", folders[0], tmp_path / "run", **values)), *parts)


@pytest.mark.parametrize("bad", ["twice", "none"])
def test_bad_lists_of_folders_are_refused(
    bad: str, folders: list[Path], tmp_path: Path, refused: Refused
) -> None:
    given = [folders[0], folders[0]] if bad == "twice" else []
    values = {"data.data_dir": listed(given)}
    line = refused(train("fit", folders[0], tmp_path / "run", **values))
    assert_says(line, "data.data_dir", "twice" if bad == "twice" else "at least one folder")


@pytest.mark.slow
def test_real_cases_of_all_modalities(test_data: Path, tmp_path: Path) -> None:
    """The collection ``sample`` prepared from the real cases, then a few steps on all of it."""
    data_prep = pytest.importorskip("data_prep.__main__")
    assert data_prep.main(["sample", str(test_data), str(tmp_path / "sample")]) in (0, None)
    sets = sorted({_data_set(path) for path in (tmp_path / "sample").rglob("*.npz")})
    values = OPTIONS | {
        "run": tmp_path / "run",
        "data.data_dir": listed(sets),
        "data.val_share": 0.4,
        "trainer.limit_train_batches": 12,
    }
    log = tmp_path / "log"
    code = train_in_process(["fit", *(f"--{k}={v}" for k, v in values.items())], log=log)
    assert code == 0, log.read_text()
    values = {k: v for k, v in logged(tmp_path / "run").items() if k.endswith("/dsc")}
    named = {name.split("/")[1] for name in values if name.count("/") == 2}
    assert len(named) >= 9, "most modalities have more than one case"
    assert all(math.isfinite(value) for value in values.values())


def _data_set(case: Path) -> Path:
    """The folder that holds a case, above its split."""
    return case.parent.parent if case.parent.name in ("train", "val", "test") else case.parent
