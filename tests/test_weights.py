"""Checkpoint files: where they are looked up, and what is refused."""

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam2_ft import download, weights
from medsam2_ft.download import sha256_of
from medsam2_ft.errors import UserError
from medsam2_ft.weights import (
    VARIANTS,
    Variant,
    checkpoint_folder,
    guess_variant,
    load_state,
    resolve_weights,
)

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}
TINY = "sam2.1_hiera_tiny"


def test_table_of_released_variants_agrees_with_the_sam2_package() -> None:
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    ours = {(entry.config, entry.checkpoint) for entry in VARIANTS.values()}
    assert ours == set(HF_MODEL_ID_TO_FILENAMES.values())
    assert len(VARIANTS) == 8
    for name, entry in VARIANTS.items():
        assert entry.url.endswith(("/092824/" if "2.1" in name else "/072824/") + entry.checkpoint)
        assert len(bytes.fromhex(entry.sha256)) == 32


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkpoint folder, and no network."""
    monkeypatch.setenv("MEDSAM2FT_CHECKPOINTS", str(tmp_path))

    def offline(url: str, target: Path, sha256: str) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(download, "download", offline)
    return tmp_path


@pytest.fixture
def fake_release(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file in place of Meta's, with the checksum in the table changed to fit."""
    path = folder / f"{TINY}.pt"
    torch.save({"model": STATE}, path)
    values = {**vars(VARIANTS[TINY]), "sha256": sha256_of(path)}
    monkeypatch.setattr(weights, "VARIANTS", {TINY: Variant(**values)})
    return path


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDSAM2FT_CHECKPOINTS", raising=False)
    assert checkpoint_folder() == Path("checkpoints")


def test_random_needs_no_file(folder: Path) -> None:
    assert resolve_weights("random", TINY) is None


def test_pretrained_is_found_and_checked(fake_release: Path) -> None:
    assert resolve_weights("pretrained", TINY) == fake_release


def test_the_checksum_is_computed_once(fake_release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_weights("pretrained", TINY)
    with monkeypatch.context() as patch:
        patch.setattr("medsam2_ft.download.sha256_of", lambda path: pytest.fail("hashed again"))
        assert resolve_weights("pretrained", TINY) == fake_release
    content = bytearray(fake_release.read_bytes())
    content[200] ^= 1
    fake_release.write_bytes(content)
    stat = fake_release.stat()
    os.utime(fake_release, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    with pytest.raises(UserError, match="sha256 is not that of"):
        resolve_weights("pretrained", TINY)


def test_a_broken_note_is_ignored(fake_release: Path) -> None:
    resolve_weights("pretrained", TINY)
    (note,) = fake_release.parent.glob(".*.verified.json")
    assert json.loads(note.read_text())["size"] == fake_release.stat().st_size
    note.write_text("{")
    assert resolve_weights("pretrained", TINY) == fake_release


def test_a_file_with_another_checksum_is_refused(folder: Path) -> None:
    path = folder / f"{TINY}.pt"
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match=rf"{TINY}\.pt: its sha256 is not that"):
        resolve_weights("pretrained", TINY)


def test_without_network_the_file_and_its_place_are_named(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        resolve_weights("pretrained", TINY)
    message = str(caught.value)
    assert str(folder / f"{TINY}.pt") in message
    assert VARIANTS[TINY].url in message
    assert "--model.weights random" in message
    assert "\n" not in message


def test_a_model_without_released_weights_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match="tiny_test has no released weights"):
        resolve_weights("pretrained", "tiny_test")


def test_a_path_is_taken_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with pytest.raises(UserError, match=r"w\.pt: no such checkpoint"):
        resolve_weights(str(path), TINY)
    with pytest.raises(UserError, match="no such checkpoint"):
        resolve_weights(str(tmp_path), TINY)
    path.touch()
    assert resolve_weights(str(path), TINY) == path


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "content",
    [
        {"model": STATE},
        {"model": STATE, "epoch": 3},
        {"state_dict": {f"model.core.{k}": v for k, v in STATE.items()} | {"loss.x": STATE["b"]}},
        {"state_dict": {f"model.core._orig_mod.{k}": v for k, v in STATE.items()}},
    ],
)
def test_layouts(content: dict[str, Any], tmp_path: Path) -> None:
    loaded = load_state(save(tmp_path / "w.pt", content))
    assert loaded.keys() == STATE.keys()
    assert all(torch.equal(loaded[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "holds no SAM2 weights"),
        ([1, 2], "holds no SAM2 weights"),
        (STATE, "holds no SAM2 weights"),
        ({"model": {}}, "holds no SAM2 weights"),
        ({"model": 3}, "holds no SAM2 weights"),
        ({"state_dict": {"net.weight": STATE["b"]}}, "holds no SAM2 weights"),
        ({"model": {"a": "text"}}, "'a' is not a tensor"),
        ({"model": {3: STATE["b"]}}, "3 is not a tensor"),
    ],
)
def test_other_contents_are_refused(content: Any, words: str, tmp_path: Path) -> None:
    path = save(tmp_path / "w.pt", content)
    with pytest.raises(UserError, match=words) as caught:
        load_state(path)
    assert str(path) in str(caught.value)


class Touch:
    """Pickles to "create this file"."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("container", ["zip", "legacy", "plain pickle"])
def test_nothing_in_a_file_is_executed(container: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "touched", tmp_path / "evil.pt"
    content = {"model": STATE, "extra": Touch(victim)}
    if container == "plain pickle":
        path.write_bytes(pickle.dumps(Touch(victim)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(UserError, match=r"evil\.pt") as caught:
        load_state(path)
    assert not victim.exists()
    assert "\n" not in str(caught.value)
    assert "trust" not in str(caught.value)
    if container == "zip":  # the trap is real: an ordinary load springs it
        torch.load(path, weights_only=False)
        assert victim.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files_are_refused(share: float, tmp_path: Path) -> None:
    path = save(tmp_path / "w.pt", {"model": STATE})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"w\.pt: truncated"):
        load_state(path)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), inside_pickle=st.booleans())
def test_damaged_files_give_one_line_or_their_weights(
    data: st.DataObject, inside_pickle: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random bytes change, anywhere in the file or in its pickle under a correct checksum."""

    def damaged(content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(data.draw(st.integers(1, 8))):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        return bytes(changed)

    path = save(tmp_path_factory.mktemp("fuzz") / "w.pt", {"model": STATE})
    if inside_pickle:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, damaged(content) if name.endswith("data.pkl") else content)
    else:
        path.write_bytes(damaged(path.read_bytes()))
    try:
        load_state(path)
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017  (any other exception must fail the test)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pt: no such"):
        load_state(tmp_path / "nowhere.pt")


def test_nothing_fits_an_unknown_state() -> None:
    assert guess_variant({}) is None
    patch = {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(5, 3, 7, 7)}
    assert guess_variant(patch) is None
