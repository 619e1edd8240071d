"""``medsam2-ft weights``: list, verify, download."""

import hashlib
from pathlib import Path

import pytest

from medsam2_ft import weights as weights_module
from medsam2_ft.__main__ import main
from medsam2_ft.weights import CHECKPOINTS_ENV, VARIANTS, Variant

CONTENT = b"the weights of a small model"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder, and one model whose published file is ``published.pt``."""
    source = tmp_path / "published.pt"
    source.write_bytes(CONTENT)
    original = VARIANTS["sam2.1_hiera_tiny"]
    changed = {"sha256": hashlib.sha256(CONTENT).hexdigest(), "url": source.as_uri()}
    variants = {**VARIANTS, original.name: Variant(**{**vars(original), **changed})}
    monkeypatch.setattr(weights_module, "VARIANTS", variants)
    monkeypatch.setenv(CHECKPOINTS_ENV, str(tmp_path / "here"))
    return tmp_path / "here"


def test_lists_all_official_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights"]) == 0
    shown = capsys.readouterr().out
    assert str(folder) in shown
    assert shown.count("absent ") == len(VARIANTS) == 8
    assert not folder.exists()


def test_verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.mkdir()
    (folder / "sam2.1_hiera_tiny.pt").write_bytes(CONTENT)
    assert main(["weights"]) == 0
    assert "verified  sam2.1_hiera_tiny.pt" in capsys.readouterr().out


def test_damaged_file_is_a_mistake_with_a_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    path = folder / "sam2.1_hiera_tiny.pt"
    path.write_bytes(CONTENT[:-1])
    assert main(["weights"]) == 2
    captured = capsys.readouterr()
    assert "damaged   sam2.1_hiera_tiny.pt" in captured.out
    assert captured.err == (
        f"error: {path}: its sha256 is not that of the official file; delete it, then"
        " medsam2-ft weights --download sam2.1_hiera_tiny\n"
    )


def test_download_of_an_unknown_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "--download", "sam2.1_tiny"]) == 2
    assert "did you mean sam2.1_hiera_tiny?" in capsys.readouterr().err
    assert main(["weights", "--download", "xyz"]) == 2
    assert "there are sam2_hiera_tiny, " in capsys.readouterr().err
    assert not folder.exists()


def test_download(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "--download", "sam2.1_hiera_tiny"]) == 0
    assert (folder / "sam2.1_hiera_tiny.pt").read_bytes() == CONTENT
    assert "verified  sam2.1_hiera_tiny.pt" in capsys.readouterr().out
