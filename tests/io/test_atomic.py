"""Files appear whole or not at all."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import (
    atomic_path,
    file_stem,
    file_suffix,
    make_folder,
    remove_temporaries,
    temporary_beside,
    write_json,
    write_text,
)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [
        ("a.nii.gz", "a", ".nii.gz"),
        ("a.b.SEG.NRRD", "a.b", ".seg.nrrd"),
        ("CT_1.2.npz", "CT_1.2", ".npz"),
        ("noext", "noext", ""),
    ],
)
def test_suffix_and_stem(name: str, stem: str, suffix: str) -> None:
    assert (file_stem(Path(name)), file_suffix(Path(name))) == (stem, suffix)


def test_the_temporary_file_lies_beside_and_keeps_the_suffix(tmp_path: Path) -> None:
    target = tmp_path / "x.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".x.tmp-")
        assert temporary.name.endswith(".nii.gz")
        assert not target.exists()
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert listing(tmp_path) == ["x.nii.gz"]


def test_what_killed_writers_left_goes_and_nothing_else(tmp_path: Path) -> None:
    targets = [tmp_path / name for name in ("last.ckpt", "wandb_id", "a.nii.gz")]
    others = [*targets, *(tmp_path / name for name in (".notes", "a.tmp-1", ".a.tmp-1-x.pt"))]
    for path in (*map(temporary_beside, targets), *others):
        path.touch()
    remove_temporaries(tmp_path)
    assert listing(tmp_path) == sorted(path.name for path in others)
    remove_temporaries(tmp_path / "missing")


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")

    def fail_half_way() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail_half_way()
    assert target.read_text() == "old"
    assert listing(tmp_path) == ["x.txt"]


def test_long_and_non_ascii_names(tmp_path: Path) -> None:
    target = tmp_path / ("ä" * 120 + ".json")
    write_json(target, {"ü": 1})
    assert json.loads(target.read_text(encoding="utf-8")) == {"ü": 1}


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone/x\.txt: cannot be written .*writable"):
        write_text(tmp_path / "gone" / "x.txt", "a")


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / "file" / "x.txt", "a")


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        write_text(tmp_path, "a")


def test_a_folder_that_vanishes_while_writing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "run")
    with pytest.raises(UserError, match="cannot be written"), atomic_path(folder / "x"):
        shutil.rmtree(folder)


def test_a_full_disk_is_named_and_other_errors_are_not_hidden(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="No space left"),
        atomic_path(tmp_path / "x"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        (tmp_path / "other input").read_bytes()

    def lose_the_file() -> None:
        with atomic_path(tmp_path / "x") as path:
            path.unlink()
            path.read_bytes()

    with pytest.raises(UserError, match="cannot be written"):
        lose_the_file()
    assert listing(tmp_path) == []


def test_data_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    rename = Path.replace
    monkeypatch.setattr("os.fsync", lambda _: calls.append("fsync"))
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (calls.append("replace"), rename(self, target))[1]
    )
    write_text(tmp_path / "x", "a")
    assert calls == ["fsync", "replace", "fsync"]


def test_write_json_takes_metrics_as_they_are(tmp_path: Path) -> None:
    obj: dict[Any, Any] = {
        "dsc": np.float32(0.5),
        "nsd": float("nan"),
        "hd": [np.inf, 1],
        "ids": np.array([1, 2]),
        "file": Path("a/b"),
        3: (True, None, "ö"),
    }
    write_json(tmp_path / "m.json", obj)
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8")) == {
        "dsc": 0.5,
        "nsd": None,
        "hd": [None, 1],
        "ids": [1, 2],
        "file": "a/b",
        "3": [True, None, "ö"],
    }
    with pytest.raises(TypeError):
        write_json(tmp_path / "m.json", {"x": object()})


def test_make_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert make_folder(folder) == make_folder(folder) == folder
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be created"):
        make_folder(tmp_path / "file" / "b")
