import csv
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    ModelCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from rich.progress import Progress
from synthetic import write_npz
from tiny_run import TinyData, TinyModule, trainer_for

from medsam2_ft.callbacks import propagation
from medsam2_ft.callbacks.propagation import (
    MAX_LOGGED_LABELS,
    PropagationValidation,
    append_rows,
    autocast_dtype,
    summarize,
)
from medsam2_ft.errors import UserError
from medsam2_ft.evaluate import ObjectScore, score_volume
from medsam2_ft.io.npz import read_case

SCORE = ObjectScore("a", None, 1, "liver", "box", "object", 3, 0.5, 0.25, 4.0)


@pytest.fixture
def cases(tmp_path: Path) -> list[Path]:
    """Three volumes; the last one lacks label 3."""
    labels = [(1, 2, 3), (1, 2, 3), (1, 2)]
    return [
        write_npz(tmp_path / f"case_{i}.npz", (4 + i, 40, 44), labels[i], seed=i) for i in range(3)
    ]


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_scores_are_logged_before_checkpoints_are_chosen(tmp_path: Path, cases: list[Path]) -> None:
    run = tmp_path / "run"
    module = TinyModule(lr=0.0)
    # Lightning moves checkpoint callbacks to the end, wherever they are given.
    best = ModelCheckpoint(dirpath=run / "ckpt", monitor="val/volume_dsc", mode="max")
    trainer = trainer_for(
        run, [best, PropagationValidation()], enable_checkpointing=True, max_epochs=2
    )
    trainer.fit(module, datamodule=TinyData(cases))

    expected = [s for path in cases for s in score_volume(module.model, read_case(path))]
    assert len({round(s.dsc, 3) for s in expected}) > 3, "the scores must not be vacuous"
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for metric in ("dsc", "nsd"):
        means = []
        for label in ("1", "2", "3"):
            values = [getattr(s, metric) for s in expected if s.label_name == label]
            means.append(sum(values) / len(values))
            assert metrics[f"val/volume_{metric}/{label}"] == pytest.approx(means[-1], abs=1e-6)
        assert metrics[f"val/volume_{metric}"] == pytest.approx(sum(means) / 3, abs=1e-6)
    assert best.best_model_score == pytest.approx(metrics["val/volume_dsc"])
    assert Path(best.best_model_path).is_file()

    rows = read_rows(run / "volume_scores.csv")
    assert [row["epoch"] for row in rows] == ["0"] * 8 + ["1"] * 8
    assert [(r["case"], r["label"]) for r in rows[:8]] == [(s.case, str(s.label)) for s in expected]
    assert [float(r["dsc"]) for r in rows[8:]] == [s.dsc for s in expected]
    assert [float(r["hd95_mm"]) for r in rows[8:]] == [s.hd95_mm for s in expected]


def test_other_epochs_and_the_sanity_check_are_left_out(tmp_path: Path, cases: list[Path]) -> None:
    seen: list[bool] = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen.append("val/volume_dsc" in trainer.callback_metrics)

    callback = PropagationValidation(every_n_epochs=2, max_volumes=1)
    trainer = trainer_for(tmp_path, [callback, Watch()], max_epochs=4)
    trainer.fit(TinyModule(), datamodule=TinyData(cases))
    assert seen[:2] == [False, True]
    assert [r["epoch"] for r in read_rows(tmp_path / "volume_scores.csv")] == ["1"] * 3 + ["3"] * 3


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, [0, 1, 2]), (1, [0]), (2, [0, 2]), (9, [0, 1, 2])],
)
def test_max_volumes_takes_evenly_spaced_volumes(
    tmp_path: Path, cases: list[Path], limit: int | None, expected: list[int]
) -> None:
    trainer = trainer_for(tmp_path, [PropagationValidation(max_volumes=limit)])
    trainer.validate(TinyModule(), datamodule=TinyData(cases), verbose=False)
    rows = read_rows(tmp_path / "validate_volume_scores.csv")
    assert sorted({row["case"] for row in rows}) == [f"case_{i}" for i in expected]


def test_a_dry_run_scores_one_volume_and_writes_nothing(tmp_path: Path, cases: list[Path]) -> None:
    run = tmp_path / "run"
    trainer = trainer_for(run, [PropagationValidation()], fast_dev_run=1)
    trainer.fit(TinyModule(), datamodule=TinyData(cases))
    assert "val/volume_dsc/3" in trainer.callback_metrics
    assert not run.exists()


def test_volumes_have_a_tqdm_bar(
    tmp_path: Path, cases: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    bar = TQDMProgressBar()
    trainer = trainer_for(tmp_path, [PropagationValidation(), bar], enable_progress_bar=True)
    trainer.validate(TinyModule(), datamodule=TinyData(cases), verbose=False)
    assert "Volumes" in "".join(capfd.readouterr())
    assert len(read_rows(tmp_path / "validate_volume_scores.csv")) == 8


def test_volumes_are_a_line_of_the_rich_bar(
    tmp_path: Path, cases: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    refreshed: list[tuple[str, float]] = []

    def record(progress: Progress) -> None:
        refreshed.extend((task.description, task.completed) for task in progress.tasks)

    monkeypatch.setattr(Progress, "refresh", record)
    bar = RichProgressBar()
    trainer = trainer_for(tmp_path, [PropagationValidation(), bar], enable_progress_bar=True)
    trainer.validate(TinyModule(), datamodule=TinyData(cases), verbose=False)
    steps = sorted({done for description, done in refreshed if description == "Volumes"})
    assert steps == [0, 1, 2, 3]
    assert bar.progress is not None
    left = [task.description for task in bar.progress.tasks]
    assert "Volumes" not in left, "the line goes when the volumes are done"


def test_both_strategies_and_the_test_split(tmp_path: Path, cases: list[Path]) -> None:
    callback = PropagationValidation(strategies="both", z_range="full", max_volumes=1)
    trainer = trainer_for(tmp_path, [callback])
    trainer.test(TinyModule(), datamodule=TinyData(cases), verbose=False)
    names = {name for name in trainer.callback_metrics if name.startswith("test/volume_dsc")}
    stems = ("test/volume_dsc_full", "test/volume_dsc_memory_full")
    assert names == {f"{s}{label}" for s in stems for label in ("", "/1", "/2", "/3")}
    rows = read_rows(tmp_path / "test_volume_scores.csv")
    assert Counter(row["strategy"] for row in rows) == {"box": 3, "memory": 3}
    assert {row["z_range"] for row in rows} == {"full"}


class DumpMetrics(Callback):
    """Writes what each rank would select checkpoints by, and which volumes it scored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(metrics))


class CountVolumes(PropagationValidation):
    def _score(self, trainer: Trainer, pl_module: LightningModule, paths: Any) -> Any:
        names = [case.path.name for case in paths]
        folder = Path(trainer.default_root_dir)
        (folder / f"volumes{trainer.global_rank}.json").write_text(json.dumps(names))
        return super()._score(trainer, pl_module, paths)


def test_two_ranks_score_three_volumes_once_each(tmp_path: Path, cases: list[Path]) -> None:
    module, data = TinyModule(), TinyData(cases)
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, options in ((one, {}), (two, {"devices": 2, "strategy": "ddp_fork"})):
        folder.mkdir()
        trainer = trainer_for(folder, [CountVolumes(), DumpMetrics(folder)], **options)
        trainer.validate(module, datamodule=data, verbose=False)
    read = [json.loads((two / f"rank{i}.json").read_text()) for i in (0, 1)]
    single = json.loads((one / "rank0.json").read_text())
    assert read[0] == read[1] == single
    assert "val/volume_dsc/3" in single
    volumes = [json.loads((two / f"volumes{i}.json").read_text()) for i in (0, 1)]
    assert volumes == [["case_0.npz", "case_2.npz"], ["case_1.npz"]]
    file = "validate_volume_scores.csv"
    assert read_rows(two / file) == read_rows(one / file)
    assert len(read_rows(two / file)) == 8


def test_a_broken_volume_is_named(
    tmp_path: Path, cases: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(propagation, "score_volume", fail)
    with pytest.raises(RuntimeError) as caught:
        trainer_for(tmp_path, [PropagationValidation()]).validate(
            TinyModule(), datamodule=TinyData(cases), verbose=False
        )
    assert caught.value.__notes__ == [f"while segmenting the volume {cases[0]}"]


def test_volumes_without_objects_are_an_error(tmp_path: Path) -> None:
    empty = write_npz(tmp_path / "empty.npz", labels=())
    for paths in ([empty], []):
        with pytest.raises(UserError, match="val volumes hold no labelled object"):
            trainer_for(tmp_path, [PropagationValidation()]).validate(
                TinyModule(), datamodule=TinyData(paths), verbose=False
            )


def test_wandb_gets_the_table(tmp_path: Path, cases: list[Path]) -> None:
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="test")
    loggers = [CSVLogger(tmp_path), logger]
    trainer = trainer_for(tmp_path, [PropagationValidation(max_volumes=1)], logger=loggers)
    trainer.fit(TinyModule(), datamodule=TinyData(cases))
    logger.experiment.finish()
    (table,) = (tmp_path / "wandb").glob("offline-run-*/files/media/table/val/*.table.json")
    content = json.loads(table.read_text())
    rows = read_rows(tmp_path / "volume_scores.csv")
    assert content["columns"] == list(rows[0])
    assert [["" if v is None else str(v) for v in line] for line in content["data"]] == [
        list(row.values()) for row in rows
    ]


def test_summary_weighs_labels_equally_and_skips_nan() -> None:
    scores = [
        SCORE,
        replace(SCORE, case="b", dsc=0.7),
        replace(SCORE, label=2, label_name="spleen", dsc=0.9, nsd=math.nan),
        replace(SCORE, strategy="memory", dsc=0.1),
    ]
    values = summarize(scores, "box")
    assert values["volume_dsc/liver"] == pytest.approx(0.6)
    assert values["volume_dsc"] == pytest.approx(0.75)
    assert values["volume_nsd"] == pytest.approx(0.25)
    assert math.isnan(values["volume_nsd/spleen"])
    assert values["volume_dsc_memory"] == values["volume_dsc_memory/liver"] == 0.1
    only_memory = summarize([replace(SCORE, strategy="memory")], "memory")
    assert set(only_memory) == {"volume_dsc", "volume_nsd", "volume_dsc/liver", "volume_nsd/liver"}


def test_modalities_weigh_the_same_whatever_their_labels() -> None:
    ct, pet = replace(SCORE, modality="CT"), replace(SCORE, modality="PET", dsc=0.9)
    scores = [ct, replace(ct, label_name="spleen", dsc=0.1), replace(SCORE, dsc=0.2), pet]
    values = summarize(scores, "box")
    assert values["CT/volume_dsc"] == pytest.approx(0.3)
    assert values["PET/volume_dsc"] == pytest.approx(0.9)
    assert values["unknown/volume_dsc"] == pytest.approx(0.2)
    assert values["volume_dsc"] == pytest.approx(1.4 / 3)
    assert values["volume_dsc/liver"] == pytest.approx((0.5 + 0.2 + 0.9) / 3)


def test_hundreds_of_instances_are_not_logged_one_by_one() -> None:
    scores = [replace(SCORE, label=i, label_name=str(i)) for i in range(MAX_LOGGED_LABELS + 1)]
    with pytest.warns(UserWarning, match="65 labels"):
        values = summarize(scores, "box")
    assert set(values) == {"volume_dsc", "volume_nsd"}


def test_rows_that_a_resumed_run_repeats_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run" / "scores.csv"
    row = {"epoch": 0, "step": 10, **SCORE.__dict__}
    append_rows(path, [row, {**row, "label": 2}])
    append_rows(path, [{**row, "epoch": 1, "step": 20}])
    append_rows(path, [{**row, "epoch": 1, "step": 20, "case": "again, with a comma"}])
    rows = read_rows(path)
    assert [(r["step"], r["case"]) for r in rows] == [
        ("10", "a"),
        ("10", "a"),
        ("20", "again, with a comma"),
    ]
    assert [p.name for p in path.parent.iterdir()] == ["scores.csv"]


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32-true", torch.float32),
        ("64-true", torch.float32),
        ("bf16-mixed", torch.bfloat16),
        ("16-mixed", torch.float16),
    ],
)
def test_autocast_follows_the_trainer(precision: str, dtype: torch.dtype) -> None:
    assert autocast_dtype(precision) == dtype


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs=0"),
        ({"max_volumes": 0}, "max_volumes=0"),
        ({"tolerance_mm": -1.0}, "tolerance_mm=-1.0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        PropagationValidation(**options)
