"""Models by name and from files, and what is known of them."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medsam2_ft import models, weights
from medsam2_ft.errors import UserError
from medsam2_ft.export import CHECKPOINT_KEY, STATE_PREFIX, ExportInfo, write_export
from medsam2_ft.intensity import rule_for_modality
from medsam2_ft.models import load_model, resolve_device, resolve_dtype, rule_for
from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.propagate import propagate_boxes
from medsam2_ft.sam2_adapter import Sam2, build_model
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.slice_model import SliceModel
from medsam2_ft.types import IntensityRule, Volume

CPU = torch.device("cpu")
LUNG = IntensityRule("window", -910.0, 590.0)
INFO = ExportInfo(
    "tiny_test", 96, "box", (LUNG.to_json(),), {1: "lung"}, ("CT",), metrics={"val/dsc": 0.5}
)


@pytest.fixture(scope="module")
def tiny() -> Sam2:
    torch.manual_seed(5)
    return build_model("tiny_test", image_size=96, weights="random")


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def exported(tiny: Sam2, tmp_path: Path) -> Path:
    path = tmp_path / "lungs" / "exports" / "best.pt"
    write_export(tiny.core.state_dict(), path, INFO)
    return path


def test_an_export_brings_what_its_sidecar_says(exported: Path, tiny: Sam2) -> None:
    segmenter = Segmenter.from_checkpoint(exported, device="cpu")
    assert isinstance(segmenter.model, Sam2)
    assert same_weights(segmenter.model, tiny)
    assert (segmenter.model.image_size, segmenter.strategy) == (96, "box")
    assert (segmenter.rules, segmenter.modalities) == ((LUNG,), ("CT",))
    assert (segmenter.name, segmenter.dtype) == ("lungs/best", torch.float32)
    assert segmenter.sha256 == hashlib.sha256(exported.read_bytes()).hexdigest()
    assert segmenter.strategies == ("box", "memory")
    other = Segmenter.from_checkpoint(
        str(exported), device="cpu", image_size=64, strategy="memory", dtype="bfloat16"
    )
    assert isinstance(other.model, Sam2)
    assert (other.model.image_size, other.strategy) == (64, "memory")
    assert other.dtype == torch.bfloat16


def test_the_sidecar_may_choose_memory(tiny: Sam2, tmp_path: Path) -> None:
    path = tmp_path / "tracked.pt"
    write_export(tiny.core.state_dict(), path, replace(INFO, strategy="memory"))
    loaded = load_model(path, device=CPU)
    assert (loaded.strategy, loaded.name) == ("memory", "tracked")


def test_a_training_checkpoint_says_the_same(tiny: Sam2, tmp_path: Path) -> None:
    path = tmp_path / "lungs" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    state = {STATE_PREFIX + name: tensor for name, tensor in tiny.core.state_dict().items()}
    torch.save({"state_dict": state, CHECKPOINT_KEY: INFO.to_dict()}, path)
    loaded = load_model(path, device=CPU)
    assert same_weights(loaded.model, tiny)
    assert (loaded.model.image_size, loaded.strategy, loaded.name) == (96, "box", "lungs/last")
    assert (loaded.rules, loaded.modalities) == ((LUNG,), ("CT",))


def test_random_weights_are_said_loudly(caplog: pytest.LogCaptureFixture) -> None:
    loaded = load_model("random:tiny_test", device=CPU)
    assert (loaded.name, loaded.model.image_size) == ("random:tiny_test", 64)
    assert loaded.sha256 is None
    assert "RANDOM WEIGHTS" in caplog.text


def test_official_weights_are_known_by_their_bytes_and_others_by_their_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = "sam2_hiera_tiny"
    path = tmp_path / "sam2_hiera_tiny.pt"
    state = build_model(name, image_size=256, weights="random").core.state_dict()
    torch.save({"model": state}, path)
    caplog.clear()
    guessed = load_model(path, device=CPU, image_size=256)
    assert (guessed.model.variant, guessed.strategy) == (name, "box")
    assert "no sidecar sam2_hiera_tiny.json" in caplog.text
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    official = replace(weights.VARIANTS[name], sha256=digest)
    monkeypatch.setitem(models.VARIANTS, name, official)  # type: ignore[arg-type]
    monkeypatch.setenv(weights.CHECKPOINTS_ENV, str(tmp_path))
    caplog.clear()
    by_name = load_model(name, device=CPU, image_size=256)
    assert (by_name.name, by_name.strategy, by_name.sha256) == (name, "memory", digest)
    renamed = path.rename(tmp_path / "mine.pt")
    by_bytes = load_model(renamed, device=CPU)
    assert (by_bytes.name, by_bytes.strategy) == ("mine", "memory")
    assert (by_bytes.model.variant, by_bytes.model.image_size) == (name, 1024)
    assert caplog.text == ""


def _missing(path: Path) -> None:
    path.unlink()


def _another_file(path: Path) -> None:
    torch.save({"model": {"x": torch.zeros(1)}}, path)


def _no_json(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


def _no_object(path: Path) -> None:
    path.with_suffix(".json").write_text("[]")


def _bad_field(path: Path) -> None:
    _change(path, strategy="boxes")


def _bad_rule(path: Path) -> None:
    _change(path, intensity=["{}"])


def _bad_size(path: Path) -> None:
    _change(path, image_size=100)


def _bad_variant(path: Path) -> None:
    _change(path, variant="sam9")


def _no_sidecar(path: Path) -> None:
    path.with_suffix(".json").unlink()


def _truncated(path: Path) -> None:
    path.with_suffix(".json").unlink()
    path.write_bytes(path.read_bytes()[:5000])


def _change(path: Path, **fields: Any) -> None:
    sidecar = path.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | fields))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_missing, "no such model and no such file"),
        (_another_file, "describes other weights than best.pt"),
        (_no_json, "cannot be read as JSON"),
        (_no_object, "another version of medsam2-ft, or damaged"),
        (_bad_field, "strategy 'boxes'"),
        (_bad_rule, "intensity rule '{}' is not valid"),
        (_bad_size, "image size 100"),
        (_bad_variant, "'sam9' is unknown"),
        (_no_sidecar, r"put the sidecar best\.json"),
        (_truncated, "truncated, or not a PyTorch checkpoint"),
    ],
)
def test_files_that_are_no_model_end_in_one_line(damage: Any, words: str, exported: Path) -> None:
    damage(exported)
    with pytest.raises(UserError, match=words) as error:
        Segmenter.from_checkpoint(exported, device="cpu")
    assert "\n" not in str(error.value)


def test_devices_and_types() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cuda", "mps", "cpu")
    for name in ("cuda:99", "tpu", ""):
        with pytest.raises(UserError, match=f"device {name}: not usable here"):
            resolve_device(name)
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_dtype("float16", CPU) == torch.float16
    assert resolve_dtype(torch.bfloat16, CPU) == torch.bfloat16
    with pytest.raises(UserError, match="dtype int8"):
        resolve_dtype("int8", CPU)


def test_a_baseline_is_a_model_like_any_other_for_boxes(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("segment_anything")
    segmenter = Segmenter.from_checkpoint("random:medsam_tiny_test", device="cpu")
    assert isinstance(segmenter.model, SliceModel)
    assert "RANDOM WEIGHTS" in caplog.text
    assert (segmenter.name, segmenter.strategies) == ("random:medsam_tiny_test", ("box",))
    assert (segmenter.strategy, segmenter.image_size) == ("box", 64)
    image = np.random.default_rng(0).integers(0, 255, (4, 40, 50), np.uint8)
    box = np.array([5, 6, 30, 33], np.float32)
    prompts = [ObjectPrompt.from_box(3, 1, box, (0, 3))]
    labels = segmenter.segment(Volume(image), prompts)
    expected = np.zeros(image.shape, bool)
    for found in propagate_boxes(segmenter.model, image, prompts):
        expected[found.frame] = (found.logits[0] > 0).numpy()
    assert np.array_equal(labels.maps[0] == 3, expected)
    with pytest.raises(UserError, match="cannot propagate by 'memory'; choose box"):
        segmenter.segment(Volume(image), prompts, strategy="memory")
    with pytest.raises(UserError, match="cannot propagate by 'memory'"):
        Segmenter.from_checkpoint("random:sam_tiny_test", device="cpu", strategy="memory")
    with pytest.raises(UserError, match="64 px and no other size, not 512"):
        Segmenter.from_checkpoint("random:sam_tiny_test", device="cpu", image_size=512)


PET = IntensityRule("window", 0.0, 15.0)
KEEP, MINMAX = IntensityRule("keep"), IntensityRule("minmax")
SOFT, USUAL_MR = rule_for_modality("CT"), rule_for_modality("MR")


@pytest.mark.parametrize(
    ("dtype", "modality", "rules", "modalities", "expected"),
    [
        (np.int16, "CT", (), (), SOFT),
        (np.int16, "CT", (LUNG,), ("CT",), LUNG),
        (np.int16, "CT", (LUNG, USUAL_MR), ("CT", "MR"), LUNG),
        (np.int16, "MR", (LUNG, USUAL_MR), ("CT", "MR"), USUAL_MR),
        (np.int16, "CT", (LUNG, SOFT), ("CT",), SOFT),  # two: its own is the usual one
        (np.int16, "CT", (LUNG, PET), ("CT", "PET"), SOFT),
        (np.float32, "PET", (PET,), ("PET",), PET),
        (np.int16, "CT", (PET,), ("PET",), SOFT),
        (np.int16, "CT", (LUNG,), (), LUNG),
        (np.int16, None, (LUNG,), ("CT",), LUNG),
        (np.int16, None, (LUNG, USUAL_MR), ("CT", "MR"), MINMAX),
        (np.uint8, None, (LUNG,), ("CT",), KEEP),
        (np.uint8, "CT", (), (), KEEP),
        (np.uint8, "endoscopy", (LUNG,), ("CT",), KEEP),
        (np.uint16, "xray", (), (), MINMAX),
    ],
)
def test_the_rule_is_the_models_own_where_it_is_sure(
    dtype: Any,
    modality: str | None,
    rules: tuple[IntensityRule, ...],
    modalities: tuple[str, ...],
    expected: IntensityRule,
) -> None:
    volume = Volume(np.zeros((1, 2, 2), dtype), modality=modality)
    assert rule_for(volume, rules, modalities) == expected


def test_colour_is_kept() -> None:
    volume = Volume(np.zeros((1, 2, 2, 3), np.uint8), modality="CT")
    assert rule_for(volume, (LUNG,), ("CT",)) == KEEP
