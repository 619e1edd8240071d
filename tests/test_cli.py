"""train.py from the outside: every config, resuming, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch
import yaml

from medsam2_ft.cli import FineTuneCLI, main
from medsam2_ft.errors import UserError
from medsam2_ft.io.npz import read_case
from medsam2_ft.predict import predict_case
from medsam2_ft.sam2_adapter import build_model

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))
SMALL = {
    "data.image_size": 64,
    "data.batch_size": 2,
    "data.num_workers": 0,
    "model.variant": "tiny_test",
    "model.weights": "random",
    "trainer.accelerator": "cpu",
    "trainer.devices": 1,
    "trainer.strategy": "auto",
    "trainer.precision": "32-true",
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
    "wandb.mode": "off",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for split, count, seed in (("train", 2, 0), ("val", 1, 100), ("test", 1, 200)):
        (folder / split).mkdir(parents=True)
        synthetic.write_folder(folder / split, count, seed=seed)
    return folder


@pytest.fixture(autouse=True)
def _no_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """LightningCLI warns where pytest's own arguments stand beside ours."""
    monkeypatch.setattr("sys.argv", ["train.py"])


def train(command: str, run: Path, data: Path, **options: object) -> FineTuneCLI:
    values = SMALL | {"run": run, "data.data_dir": data} | options
    return main([command, *(f"--{key}={value}" for key, value in values.items())])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_config_runs(config: Path, data: Path, tmp_path: Path) -> None:
    own = SMALL.keys() - {"trainer.precision"}
    values = {key: SMALL[key] for key in own} | {
        "trainer.fast_dev_run": 2,
        "run": tmp_path / "run",
        "data.data_dir": data,
    }
    files = [FOLDER / "finetune.yaml"] if is_overlay(config) else []
    given = [f"--config={file}" for file in (*files, config)]
    cli = main(["fit", *given, *(f"--{key}={value}" for key, value in values.items())])
    assert cli.trainer.global_step == -(-2 // cli.trainer.accumulate_grad_batches)
    for group, content in yaml.safe_load(config.read_text()).items():
        for key, value in content.items():
            if f"{group}.{key}" not in own:
                used = cli.config["fit"][group][key]
                assert used == value, f"{group}.{key} of the file is not what runs"


def is_overlay(config: Path) -> bool:
    """Whether a file stands behind the one that says what is trained, and how."""
    return config.parent != FOLDER or config.name == "cluster.yaml"


def test_there_are_configs() -> None:
    expected = {"finetune", "paper", "demo", "scratch", "cluster"}
    assert {f"{name}.yaml" for name in expected} == {p.name for p in CONFIGS if p.parent == FOLDER}


def test_a_run_leaves_everything_in_its_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = tmp_path / "run"
    train("fit", run, data, **{"trainer.max_epochs": 1})
    for name in (
        "config.yaml",
        "metrics.csv",
        "volume_scores.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "exports/best.pt",
        "exports/best.json",
        "exports/last.pt",
        "pictures/train_batch.png",
    ):
        assert (run / name).is_file(), name
    assert list(elsewhere.iterdir()) == []
    sidecar = json.loads((run / "exports/best.json").read_text())
    assert sidecar["variant"] == "tiny_test"
    assert sidecar["image_size"] == 64
    assert sidecar["strategy"] == "box"
    assert 0 <= sidecar["metrics"]["val/volume_dsc"] <= 1


def test_validate_and_test_reproduce_the_logged_scores(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fitted = train("fit", run, data, **{"trainer.max_epochs": 1})
    logged = {k: float(v) for k, v in fitted.trainer.callback_metrics.items()}
    checkpoint = run / "checkpoints" / "last.ckpt"
    checked = train("validate", run, data, ckpt_path=checkpoint).trainer.callback_metrics
    for name in ("val/dsc", "val/loss", "val/volume_dsc"):
        assert float(checked[name]) == pytest.approx(logged[name], abs=1e-6)
    tested = train("test", run, data, ckpt_path="last").trainer.callback_metrics
    assert 0 <= float(tested["test/dsc"]) <= 1


def test_last_goes_on_and_a_second_start_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    first = train("fit", run, data, **{"trainer.max_epochs": 1, "ckpt_path": "last"})
    assert "fresh start" in capsys.readouterr().out
    steps = first.trainer.global_step
    second = train("fit", run, data, **{"trainer.max_epochs": 2, "ckpt_path": "last"})
    assert f"resuming from {run / 'checkpoints' / 'last.ckpt'}" in capsys.readouterr().out
    assert second.trainer.global_step == 2 * steps
    with pytest.raises(UserError, match="this run exists already; add --ckpt_path last"):
        train("fit", run, data, **{"trainer.max_epochs": 2})


@pytest.mark.parametrize("path", ["last", "explicit"])
def test_hyperparameters_come_from_the_checkpoint_however_it_is_named(
    path: str, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train("fit", run, data, **{"trainer.max_epochs": 1, "model.multimask_weight": 0.5})
    name = "last" if path == "last" else run / "checkpoints" / "last.ckpt"
    again = train(
        "fit",
        run,
        data,
        **{"trainer.max_epochs": 2, "model.multimask_weight": 2.0, "ckpt_path": name},
    )
    assert again.model.loss_weights.multimask == 0.5


def test_missing_checkpoint_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.ckpt: no such file"):
        train("fit", tmp_path / "run", data, ckpt_path=tmp_path / "nowhere.ckpt")


def test_unknown_option_names_the_closest(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--model.lr_encodr.*--model.lr_encoder"):
        train("fit", tmp_path / "run", data, **{"model.lr_encodr": 1})
    assert not (tmp_path / "run").exists()


def test_bad_choice_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.trainable"):
        train("fit", tmp_path / "run", data, **{"model.trainable": "everything"})


def test_paper_recipe_freezes_what_its_loss_does_not_reach(data: Path, tmp_path: Path) -> None:
    config = Path(__file__).parents[1] / "configs" / "paper.yaml"
    values = {"config": config, "trainer.fast_dev_run": 1, **SMALL}
    values |= {"run": tmp_path / "run", "data.data_dir": data}
    cli = main(["fit", *(f"--{key}={value}" for key, value in values.items())])
    frozen = {n for n, p in cli.model.model.core.named_parameters() if not p.requires_grad}
    assert "sam_mask_decoder.iou_prediction_head.layers.0.weight" in frozen
    assert "sam_mask_decoder.output_hypernetworks_mlps.1.layers.0.weight" in frozen
    assert "sam_mask_decoder.output_hypernetworks_mlps.0.layers.0.weight" not in frozen


def test_checkpoints_hold_plain_data_only(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("fit", run, data, **{"trainer.max_epochs": 1})
    for name in ("best", "last"):
        content = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert content["hyper_parameters"]["variant"] == "tiny_test"


def test_predict_writes_cases_from_labels_and_from_boxes(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("fit", run, data, **{"trainer.max_epochs": 1})
    boxes = np.array([[4, 6, 1, 30, 34, 3]], np.float32)
    synthetic.write_npz(
        data / "test" / "boxed.npz", (5, 40, 48), boxes=boxes, box_labels=np.array([7])
    )
    train("predict", run, data, ckpt_path="last")
    written = {path.stem: read_case(path) for path in (run / "predictions").glob("*.npz")}
    assert set(written) == {"case_000", "boxed"}
    boxed = written["boxed"].label_maps[0]
    assert set(np.unique(boxed)) <= {0, 7}
    assert boxed[1:4].any()
    assert not boxed[[0, 4]].any(), "nothing outside the box's slices"
    model = build_model("tiny_test", image_size=64, weights=str(run / "exports" / "last.pt"))
    again = predict_case(model, read_case(data / "test" / "case_000.npz"))
    assert np.array_equal(again.label_maps[0], written["case_000"].label_maps[0])
    assert again.label_maps[0].any()


def test_predict_names_a_case_without_prompts(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("fit", run, data, **{"trainer.max_epochs": 1})
    np.savez_compressed(data / "test" / "bare.npz", imgs=np.zeros((3, 32, 32), np.uint8))
    with pytest.raises(UserError, match=r"bare: nothing to segment; add boxes"):
        train("predict", run, data, ckpt_path="last")


def test_tensorboard_gets_curves_and_pictures(data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    options = {"trainer.max_epochs": 1, "tensorboard": True, "trainer.log_every_n_steps": 1}
    train("fit", run, data, **options)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {"train/loss", "val/volume_dsc"} <= set(events.Tags()["scalars"])
    assert any(tag.startswith("pictures/") for tag in events.Tags()["images"])


@pytest.mark.parametrize(
    "options",
    [
        {"trainer.max_epochs": 2, "trainer.accumulate_grad_batches": 2},
        {"trainer.max_epochs": 3, "trainer.limit_train_batches": 2},
        {"trainer.max_epochs": -1, "trainer.max_steps": 2},
    ],
    ids=str,
)
def test_schedule_is_as_long_as_the_fit(
    options: dict[str, object], data: Path, tmp_path: Path
) -> None:
    """We count the steps ourselves; Lightning's estimate may be asked once training is over."""
    cli = train("fit", tmp_path / "run", data, **options)
    assert cli.model._total_steps() == cli.trainer.estimated_stepping_batches
    assert cli.model._total_steps() == cli.trainer.global_step > 1
