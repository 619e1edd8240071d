"""Bad options, YAML files and commands: the line says what to write instead."""

import subprocess
import sys
from pathlib import Path

import pytest
from refusals import Refused, assert_says, command, error_line, listing, train

from medsam2_ft.cli import main as train_main
from medsam2_ft.entry import run as run_entry

ROOT = Path(__file__).resolve().parents[2]

BAD_OPTIONS = [
    ("data.batch_size", 0, "at least 1"),
    ("data.batch_size", "x", "Expected a int"),
    ("data.image_size", 100, "multiple of"),
    ("data.max_objects", 0, "choose 1 to"),
    ("data.negative_share", 2, "choose 0 to 0.9"),
    ("data.val_share", 1.5, "less than 1"),
    ("data.augmentation.noise", 5, "choose 0 to 1"),
    ("model.lr_encoder", -1, "choose 0 or more"),
    ("model.lr_decoder", "nan", "Expected a float"),
    ("model.beta2", 1.5, "less than 1"),
    ("model.warmup_share", -1, "choose 0 to 1"),
    ("model.trainable", "all", "encoder+decoder"),
    ("model.variant", "sam3", "sam2.1_hiera_tiny"),
    ("model.weights", "nowhere.pt", "pretrained"),
    ("model.lr_encodr", 1, "did you mean --model.lr_encoder?"),
    ("propagation.every_n_epochs", 0, "at least 1"),
    ("best.mode", "median", "'max', 'min'"),
    ("wandb.mode", "nonsense", "'off', 'online', 'offline'"),
    ("trainer.accumulate_grad_batches", 0, "at least 1"),
    ("trainer.check_val_every_n_epoch", 0, "at least 1"),
    ("trainer.log_every_n_steps", -1, "at least 0"),
    ("trainer.accelerator", "abacus", "Available names"),
    ("trainer.devices", 0, "not a valid input"),
    ("seed_everything", -1, "choose 0 to"),
    ("ckpt_path", "nowhere.ckpt", "`last`"),
]
# where the line says something else than the option's name
SHOWN_AS = {
    "data.image_size": "image size 100",
    "model.variant": "variant 'sam3'",
    "model.weights": "nowhere.pt",
    "trainer.accelerator": "accelerator='abacus'",
    "trainer.devices": "devices='0'",
}


@pytest.mark.parametrize(("option", "value", "remedy"), BAD_OPTIONS)
def test_bad_option_is_named(
    option: str, value: object, remedy: str, good: Path, tmp_path: Path, refused: Refused
) -> None:
    line = refused(train("fit", good, tmp_path / "run", **{option: value}))
    assert_says(line, SHOWN_AS.get(option, option), remedy)
    assert listing(tmp_path) == {}


def test_missing_option_is_named_as_it_is_written(refused: Refused) -> None:
    assert_says(refused(lambda: run_entry(lambda: train_main(["fit"]))), "--data.data_dir")


def test_monitored_metric_that_is_not_logged_is_named(
    good: Path, tmp_path: Path, refused: Refused
) -> None:
    line = refused(train("fit", good, tmp_path / "run", **{"best.monitor": "val/nope"}))
    assert_says(line, "val/nope", "val/volume_dsc")


def test_more_batches_between_validations_than_there_are(
    good: Path, tmp_path: Path, refused: Refused
) -> None:
    line = refused(train("fit", good, tmp_path / "run", **{"trainer.val_check_interval": 1000}))
    assert_says(line, "val_check_interval", "less than or equal")


BAD_YAML = {
    "syntax": ("model: [\n", "f.yaml", "while parsing"),
    "unknown_key": ("model:\n  lr_encodr: 1\n", "model.lr_encodr", "did you mean model.lr_encoder"),
    "wrong_type": ("data:\n  batch_size: x\n", "f.yaml", "data.batch_size"),
    "text": ("just text\n", "f.yaml", "Unexpected config"),
    "binary": (b"\xff\xfe\x00\x01", "f.yaml", "not a YAML file"),
    "missing": (None, "f.yaml", "does not exist"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_bad_yaml_is_named(name: str, good: Path, tmp_path: Path, refused: Refused) -> None:
    content, *parts = BAD_YAML[name]
    file = tmp_path / "f.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_says(refused(train("fit", good, tmp_path / "run", "--config", file)), *parts)
    assert not (tmp_path / "run").exists()


BAD_COMMANDS: list[tuple[list[str], str, str]] = [
    (["prepar"], "prepar", "did you mean prepare?"),
    (["doctor", "--x"], "--x", "medsam2-ft doctor --help"),
    (["doctor", "word"], "word", "medsam2-ft doctor --help"),
    (["weights", "--downlod", "x"], "--downlod", "did you mean --download?"),
    (["weights", "--download", "sam3"], "sam3", "sam2.1_hiera_tiny"),
    (["demo", "--rn", "x"], "--rn", "did you mean --run?"),
    (["demo", "--run", __file__], __file__, "give another one"),
    (["export"], "checkpoint", "medsam2-ft export --help"),
    (["export", "nowhere/best.ckpt"], "nowhere/best.ckpt", "no such checkpoint"),
    (["prepare", "nowhere", "nowhere", "out", "--modality", "CT"], "nowhere", "no such"),
    (["prepare", "a", "b", "out", "--modality", "CTX"], "--modality", "'CT'"),
]


@pytest.mark.parametrize(("args", "name", "remedy"), BAD_COMMANDS, ids=lambda v: str(v)[:30])
def test_bad_command_is_named(
    args: list[str],
    name: str,
    remedy: str,
    tmp_path: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_says(refused(command(*args)), name, remedy)
    assert listing(tmp_path) == {}


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["train.py", "fit", "--data.data_dir=nowhere", "--data.batch_sizes=1"], ["batch_sizes"]),
        (["-m", "medsam2_ft", "export", "nowhere.ckpt"], ["nowhere.ckpt", "no such checkpoint"]),
    ],
)
def test_scripts_exit_with_two(args: list[str], parts: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *args], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert_says(error_line(done.returncode, done.stderr), *parts)
