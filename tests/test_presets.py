"""--preset: which, from where, and what wins over what."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medsam2_ft.errors import UserError
from medsam2_ft.presets import expand_preset, preset_file, preset_for, preset_names

EFFECTIVE_BATCH = 16  # of configs/finetune.yaml

TABLE = Path(__file__).parents[1] / "benchmarks" / "results" / "memory.json"
CONTEXT_BYTES = 10**9  # of a GPU, before anything is computed
CPU_BYTES = 16 * 2**30


def needed_bytes(preset: dict[str, Any]) -> int:
    """What the table of computed memory says for a step of SAM2.1-Tiny."""
    wanted = {
        "variant": "sam2.1_hiera_tiny",
        "image_size": preset["data"]["image_size"],
        "checkpointing": preset["model"]["activation_checkpointing"],
        "precision": preset["trainer"]["precision"],
    }
    rows = json.loads(TABLE.read_text())["computed"]
    (row,) = (row for row in rows if wanted.items() <= row.items())
    return int(row["constant_bytes"] + preset["data"]["batch_size"] * row["bytes_per_slice"])


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_leaves_a_fifth_to_spare(name: str) -> None:
    have = CPU_BYTES if name == "cpu" else int(name.removesuffix("gb")) * 2**30
    preset = yaml.safe_load(preset_file(name).read_text())
    assert needed_bytes(preset) + CONTEXT_BYTES <= 0.8 * have


def test_every_preset_keeps_the_effective_batch() -> None:
    assert preset_names() == ["cpu", "6gb", "8gb", "12gb", "24gb", "40gb"]
    for name in preset_names():
        values = yaml.safe_load(preset_file(name).read_text())
        batch = values["data"]["batch_size"] * values["trainer"]["accumulate_grad_batches"]
        assert batch == EFFECTIVE_BATCH, name


@pytest.mark.parametrize(
    ("gib", "name"), [(4, "6gb"), (7.6, "8gb"), (16, "12gb"), (23.7, "24gb"), (141, "40gb")]
)
def test_auto_takes_the_largest_that_fits(gib: float, name: str) -> None:
    assert preset_for(int(gib * 2**30)) == name


def test_without_a_gpu_auto_is_cpu() -> None:
    assert preset_for(None) == "cpu"


@pytest.mark.parametrize("given", [["--preset", "8gb"], ["--preset=8gb"]])
def test_it_stands_behind_the_yaml_files_and_before_the_options(given: list[str]) -> None:
    file = str(preset_file("8gb"))
    before = expand_preset(["fit", *given, "--config", "a.yaml", "--data.batch_size", "2"])
    after = expand_preset(["fit", "--config", "a.yaml", "--data.batch_size", "2", *given])
    expected = ["fit", "--config", "a.yaml", "--config", file, "--data.batch_size", "2"]
    assert before == after == expected
    assert expand_preset(["fit", *given]) == ["fit", "--config", file]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--preset", "8bg"], "did you mean 8gb"),
        (["--preset"], "expected a name: auto, cpu, 6gb"),
        (["--preset", "8gb", "--preset", "6gb"], "give one"),
    ],
)
def test_a_wrong_preset_is_one_line(given: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        expand_preset(["fit", *given])


def test_train_py_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from medsam2_ft.cli import main

    config = Path(__file__).parents[1] / "configs" / "finetune.yaml"
    options = ["--data.data_dir", str(tmp_path), "--data.batch_size", "3", "--preset", "8gb"]
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config), *options, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["batch_size"] == 3
    assert printed["trainer"]["accumulate_grad_batches"] == 4
    assert printed["trainer"]["max_epochs"] == 50
    assert printed["model"]["activation_checkpointing"] is True
