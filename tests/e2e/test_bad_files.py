"""Checkpoints that are damaged, and output that cannot be written."""

import contextlib
import errno
import os
import resource
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk  # noqa: N813  the name that its documentation uses
import synthetic
import torch
from refusals import Refused, assert_says, command, listing, train


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def cut_copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])


def evil_copy(source: Path, target: Path) -> None:
    content = torch.load(source, weights_only=True)
    torch.save(content | {"more": Evil(target.with_name("executed"))}, target)


def other_variant(source: Path, target: Path) -> None:
    """The tensors of a model whose first layer is that of the base_plus variants."""
    content = torch.load(source, weights_only=True)
    key = "state_dict" if "state_dict" in content else "model"
    name = next(name for name in content[key] if name.endswith("patch_embed.proj.weight"))
    content[key][name] = torch.zeros(112, 3, 7, 7)
    torch.save(content, target)


def list_instead(source: Path, target: Path) -> None:
    torch.save([1, 2], target)


USES = ("weights", "ckpt_path", "export")
DAMAGES: dict[str, tuple[Callable[[Path, Path], None], str, str]] = {
    "truncated": (cut_copy, "truncated", "again"),
    "malicious": (evil_copy, "refused", "Nothing in it was run"),
    "list": (list_instead, "checkpoint", "."),
}


def use_of(how: str, file: Path, good: Path, run: Path) -> Callable[[], int]:
    if how == "export":
        return command("export", file, "--out", run / "out.pt")
    option = {"weights": "model.weights", "ckpt_path": "ckpt_path"}[how]
    return train("fit", good, run, **{option: file})


@pytest.mark.parametrize("how", USES)
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_checkpoint_is_named(
    name: str, how: str, good: Path, finished: Path, tmp_path: Path, refused: Refused
) -> None:
    damage, problem, remedy = DAMAGES[name]
    file = tmp_path / "given.ckpt"
    damage(finished / "checkpoints" / "last.ckpt", file)
    line = refused(use_of(how, file, good, tmp_path / "run"))
    assert_says(line, file, problem, remedy)
    assert list(listing(tmp_path)) == ["given.ckpt"]


def test_weights_of_another_variant_are_named(
    good: Path, finished: Path, tmp_path: Path, refused: Refused
) -> None:
    export = finished / "exports" / "last.pt"
    options = {"model.weights": export, "model.variant": "sam2.1_hiera_tiny"}
    line = refused(train("fit", good, tmp_path / "run", **options))
    assert_says(line, export, "not a checkpoint of sam2.1_hiera_tiny", "Check the variant")
    other_variant(export, tmp_path / "other.pt")
    line = refused(train("fit", good, tmp_path / "run", **{"model.weights": tmp_path / "other.pt"}))
    assert_says(line, "other.pt", "not a checkpoint of tiny_test")
    assert list(listing(tmp_path)) == ["other.pt"]


def test_checkpoint_that_does_not_fit_is_named(
    good: Path, finished: Path, tmp_path: Path, refused: Refused
) -> None:
    other_variant(finished / "checkpoints" / "last.ckpt", tmp_path / "other.ckpt")
    line = refused(train("fit", good, tmp_path / "run", ckpt_path=tmp_path / "other.ckpt"))
    assert_says(line, "--ckpt_path", "patch_embed", "this version")
    assert set(listing(tmp_path)) <= {"other.ckpt", "run", "run/config.yaml"}


def test_exchanged_kinds_of_files_are_named(
    good: Path, finished: Path, tmp_path: Path, refused: Refused
) -> None:
    export = finished / "exports" / "last.pt"
    line = refused(train("fit", good, tmp_path / "run", ckpt_path=export))
    assert_says(line, export, "not a training checkpoint", "--model.weights")
    line = refused(command("export", export))
    assert_says(line, export, "not a training checkpoint", "need no export")
    assert listing(tmp_path) == {}


def test_export_of_another_version_is_named(
    finished: Path, tmp_path: Path, refused: Refused
) -> None:
    content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(content | {"medsam2_ft": {"variant": "x"}}, tmp_path / "old.ckpt")
    line = refused(command("export", tmp_path / "old.ckpt"))
    assert_says(line, "old.ckpt", "another version", "export it again with that version")
    assert list(listing(tmp_path)) == ["old.ckpt"]


@pytest.mark.parametrize("how", ["train", "command"])
def test_pretrained_weights_without_network(
    how: str, good: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setenv("MEDSAM2FT_CHECKPOINTS", str(tmp_path / "checkpoints"))
    options = {"model.weights": "pretrained", "model.variant": "sam2.1_hiera_tiny"}
    start = {
        "train": train("fit", good, tmp_path / "run", **options),
        "command": command("weights", "--download", "sam2.1_hiera_tiny"),
    }[how]
    file = tmp_path / "checkpoints" / "sam2.1_hiera_tiny.pt"
    assert_says(refused(start), file, "no network", "Put the file from https://")
    assert list(listing(tmp_path)) == ["checkpoints"]


@pytest.mark.parametrize("where", ["{file}/run", "{file}", "/proc/run"])
def test_run_folder_that_cannot_be_written(
    where: str, good: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "file").write_text("mine")
    run = where.format(file=tmp_path / "file")
    assert_says(refused(train("fit", good, run)), run, "cannot be created", "give another one")
    assert listing(tmp_path) == {"file": b"mine"}


def test_export_that_cannot_be_written(finished: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("mine")
    checkpoint = finished / "checkpoints" / "last.ckpt"
    for out in (tmp_path / "file" / "a.pt", Path("/proc/a.pt")):
        assert_says(refused(command("export", checkpoint, "--out", out)), out.parent, "cannot be")
    line = refused(command("export", checkpoint, "--out", tmp_path / "a.txt"))
    assert_says(line, "a.txt", "end in .pt")
    assert listing(tmp_path) == {"file": b"mine"}


@contextlib.contextmanager
def small_files_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system refuses files beyond 300 kB: as on a full disk, a write fails in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def full_at_sync(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Delayed allocation: a checkpoint's last write fails, when it is flushed."""
    sync = os.fsync

    def full(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".ckpt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    yield
    monkeypatch.setattr(os, "fsync", sync)


@pytest.mark.parametrize(
    ("full", "reason"),
    [(small_files_only, "File too large"), (full_at_sync, "No space left")],
)
def test_full_disk_keeps_the_old_checkpoint(
    full: Callable[..., contextlib.AbstractContextManager[None]],
    reason: str,
    good: Path,
    finished: Path,
    tmp_path: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    kept = {name: data for name, data in listing(run).items() if name.startswith(("ch", "ex"))}
    options = {"trainer.max_epochs": 2, "ckpt_path": "last", "last.wait_for_disk_min": 0}
    start = train("fit", good, run, **options)
    with full(monkeypatch):
        line = refused(start)
    assert_says(line, ".ckpt: cannot be written", reason, "has room")
    after = listing(run)
    assert {name: after.get(name) for name in kept} == kept
    assert not [name for name in after if ".tmp" in name]


@pytest.mark.parametrize("where", ["{file}/out", "{file}", "/proc/out"])
def test_prepare_that_cannot_write(where: str, tmp_path: Path, refused: Refused) -> None:
    imgs, gts = synthetic.make_volume()
    for name, array in (("images", imgs), ("labels", gts)):
        (tmp_path / name).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name / "a.mha"))
    (tmp_path / "file").write_text("mine")
    before = listing(tmp_path)
    out = where.format(file=tmp_path / "file")
    folders = (tmp_path / "images", tmp_path / "labels", out)
    assert_says(refused(command("prepare", *folders, "--modality", "CT")), out)
    assert listing(tmp_path) == before
