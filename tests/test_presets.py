"""--preset: which, from where, and what wins over what."""

from pathlib import Path

import pytest
import yaml

from medsam2_ft.errors import UserError
from medsam2_ft.presets import expand_preset, preset_file, preset_for, preset_names

EFFECTIVE_BATCH = 16  # of configs/finetune.yaml

# What `benchmarks/memory.py` counts for a slice at 512, SAM2.1-Tiny, in GB: kept tensors, and what
# is alive for a moment; by dtype and checkpointing.
SLICE_GB = {
    ("32-true", True): 0.268 + 0.120 + 0.034,
    ("bf16-mixed", True): 0.164 + 0.069 + 0.017,
    ("bf16-mixed", False): 0.441 + 0.031,
}
FIXED_GB = 0.6 + 1.0  # weights, gradients, moments; a GPU's context
HAVE_GB = {"cpu": 16, "6gb": 6, "8gb": 8, "12gb": 12, "24gb": 24, "40gb": 40}


def test_every_preset_leaves_a_fifth_to_spare() -> None:
    assert set(HAVE_GB) == set(preset_names())
    for name in preset_names():
        values = yaml.safe_load(preset_file(name).read_text())
        data, checkpointing = values["data"], values["model"]["activation_checkpointing"]
        slice_gb = SLICE_GB[values["trainer"]["precision"], checkpointing]
        slices_gb = data["batch_size"] * slice_gb * (data["image_size"] / 512) ** 2
        assert FIXED_GB + slices_gb <= 0.8 * HAVE_GB[name], name


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
