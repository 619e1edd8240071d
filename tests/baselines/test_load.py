"""Baselines by name and from files: what is found, what is missing, what is refused."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medsam2_ft import download
from medsam2_ft.baselines import BASELINES, Baseline, catalogue, is_baseline, load, load_baseline
from medsam2_ft.baselines.medsam import MedSamModel
from medsam2_ft.baselines.sam import SamModel
from medsam2_ft.download import sha256_of
from medsam2_ft.errors import UserError
from medsam2_ft.slice_model import SliceModel


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkpoint folder, and no network."""
    monkeypatch.setenv("MEDSAM2FT_CHECKPOINTS", str(tmp_path))

    def offline(url: str, target: Path, sha256: str) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(download, "download", offline)
    return tmp_path


@pytest.fixture
def weights(folder: Path, shaken: Callable[..., SliceModel]) -> Path:
    """A file of a miniature, in the layout of SAM's."""
    path = folder / "any_name.pth"
    torch.save(shaken("sam_tiny_test", seed=9).core.state_dict(), path)
    return path


@pytest.fixture
def released(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Baseline:
    """The table says that the miniature's file is SAM's ViT-B."""
    entry = replace(
        BASELINES["sam_vit_b"],
        encoder="tiny_test",
        checkpoint=weights.name,
        sha256=sha256_of(weights),
    )
    table = {**load._KNOWN, entry.name: entry}
    monkeypatch.setattr(load, "_KNOWN", table)
    monkeypatch.setattr(load, "BASELINES", {**BASELINES, entry.name: entry})
    return entry


def same(model: SliceModel, path: Path) -> bool:
    state = torch.load(path, weights_only=True)
    return all(torch.equal(value, state[key]) for key, value in model.core.state_dict().items())


def test_the_table_names_the_packages_models() -> None:
    from segment_anything import sam_model_registry

    assert list(BASELINES) == ["sam_vit_b", "sam_vit_l", "sam_vit_h", "medsam_vit_b"]
    for name, baseline in BASELINES.items():
        assert baseline.name == name
        assert baseline.encoder in sam_model_registry
        assert baseline.checkpoint is not None
        if baseline.family == "sam":
            assert baseline.sha256 is not None
            assert len(bytes.fromhex(baseline.sha256)) == 32
            assert baseline.url.endswith(baseline.checkpoint)


def test_random_weights_are_said_loudly(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = load_baseline("random:medsam_tiny_test")
    assert "RANDOM WEIGHTS" in caplog.text
    assert isinstance(model, MedSamModel)
    assert not model.training
    assert (model.name, model.image_size, model.sha256) == ("random:medsam_tiny_test", 64, None)
    assert model.device == torch.device("cpu")


def test_a_released_file_is_found_by_name_and_by_its_checksum(
    released: Baseline, weights: Path
) -> None:
    for source in ("sam_vit_b", weights):
        model = load_baseline(source)
        assert isinstance(model, SamModel)
        assert same(model, weights)
        assert model.sha256 == released.sha256
    assert load_baseline("sam_vit_b").name == "sam_vit_b"
    assert load_baseline(weights).name == "any_name"


def test_another_file_of_that_name_is_refused(released: Baseline, weights: Path) -> None:
    torch.save({"a": torch.zeros(1)}, weights)
    with pytest.raises(UserError, match=r"any_name.pth: its sha256 is not .* sam_vit_b:") as caught:
        load_baseline("sam_vit_b")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_missing_file_says_what_to_put_where(name: str, folder: Path) -> None:
    baseline = catalogue.BASELINES[name]
    with pytest.raises(UserError) as caught:
        load_baseline(name)
    message = str(caught.value)
    assert message.startswith(f"{folder / str(baseline.checkpoint)}: not there")
    assert baseline.url in message
    assert len(message.splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == []


def test_a_file_is_what_the_user_says_it_is(weights: Path) -> None:
    for name, kind in (("sam_tiny_test", SamModel), ("medsam_tiny_test", MedSamModel)):
        model = load_baseline(f"{name}:{weights}")
        assert type(model) is kind
        assert same(model, weights)
        assert (model.name, model.sha256) == ("any_name", sha256_of(weights))


def test_a_training_checkpoint_named_medsam_is_medsam(weights: Path) -> None:
    path = weights.with_name("MedSAM_best.pth")
    torch.save({"model": torch.load(weights, weights_only=True), "epoch": 3}, path)
    model = load_baseline(path)
    assert isinstance(model, MedSamModel)
    assert same(model, weights)


def test_a_file_that_may_be_either_is_not_guessed(weights: Path) -> None:
    with pytest.raises(UserError, match=r"sam_tiny_test:\S+ or medsam_tiny_test:\S+\.$"):
        load_baseline(weights)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": torch.zeros(1)}, "no weights of SAM or MedSAM"),
        ({"a": "text"}, "'a' is not a tensor"),
        ([1, 2], "holds no weights"),
        ({}, "holds no weights"),
        ({"image_encoder.patch_embed.proj.weight": torch.zeros(17, 3, 16, 16)}, "no weights"),
    ],
)
def test_other_files_are_refused(content: object, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    assert not is_baseline(path)
    with pytest.raises(UserError, match=reason) as caught:
        load_baseline(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_of_another_shape_and_damaged_ones_are_refused(weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    first = next(iter(state))
    short = weights.with_name("short.pth")
    torch.save({key: value for key, value in state.items() if key != first}, short)
    with pytest.raises(UserError, match=rf"no checkpoint of sam_tiny_test: {first} is missing"):
        load_baseline(f"sam_tiny_test:{short}")
    with pytest.raises(UserError, match="looks like tiny_test"):
        load_baseline(f"sam_vit_b:{weights}")
    cut = weights.with_name("cut.pth")
    cut.write_bytes(weights.read_bytes()[:1000])
    assert not is_baseline(cut)
    with pytest.raises(UserError, match="truncated"):
        load_baseline(f"sam_tiny_test:{cut}")


@pytest.mark.parametrize("source", ["sam", "random:sam", "no.pth", "sam_vit_b.pth", ""])
def test_unknown_names_are_refused(source: str, folder: Path) -> None:
    assert not is_baseline(source)
    with pytest.raises(UserError, match="no such model and no such file"):
        load_baseline(source)
    with pytest.raises(UserError, match="no such checkpoint file"):
        load_baseline("sam_vit_b:no.pth")


def test_what_is_a_baseline(weights: Path) -> None:
    for source in ("sam_vit_h", "medsam_vit_b", "random:sam_vit_b", "sam_vit_b:no.pth", weights):
        assert is_baseline(source)
    for source in ("sam2.1_hiera_tiny", "random:sam2.1_hiera_tiny", weights.with_suffix(".pt")):
        assert not is_baseline(source)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(UserError, match=r"pip install 'medsam2-ft\[baselines\]'"):
        load_baseline("random:sam_tiny_test")
