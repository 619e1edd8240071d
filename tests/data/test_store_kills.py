"""Builders of the slice store are killed at random moments; what they leave is whole."""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import synthetic
from whole_files import Content, leftovers, store_content

from medsam2_ft.data import build, store
from medsam2_ft.data.index import SliceIndex
from medsam2_ft.data.store import update_store
from medsam2_ft.errors import UserError

CASES = 12
# The cases of a start, so that each builds some and removes others.
CHOICES = (slice(0, 8), slice(4, 12))
KILLS = [
    pytest.param(4, 1, id="four kills"),
    pytest.param(20, 1, id="twenty kills", marks=pytest.mark.slow),
    pytest.param(10, 2, id="ten kills, with workers", marks=pytest.mark.slow),
]

# Builders import nothing anew: a kill falls into their work.
_context = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("data")
    return [
        synthetic.write_npz(folder / f"{number:02d}.npz", (24, 128, 128), seed=number)
        for number in range(CASES)
    ]


def run_builder(root: Path, paths: list[Path], workers: int) -> None:
    build.BYTES_PER_WORKER = 1
    SliceIndex.create(root, update_store(root, paths, workers=workers, quiet=True))


def build_for(seconds: float, *args: object) -> int:
    """Starts a builder and kills it with its workers unless it is done before; its exit code."""
    process = _context.Process(target=run_builder, args=args)
    process.start()
    assert process.pid is not None
    os.setpgid(process.pid, process.pid)
    process.join(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode or 0


@pytest.mark.parametrize(("kills", "workers"), KILLS)
def test_killed_again_and_again(
    kills: int, workers: int, paths: list[Path], tmp_path: Path
) -> None:
    reference, root = tmp_path / "reference", tmp_path / "store"
    reference.mkdir()
    root.mkdir()
    began = time.monotonic()
    assert build_for(300, reference, paths, workers) == 0
    took = time.monotonic() - began
    whole = store_content(reference)
    assert len(whole) == CASES + 1
    rng = random.Random(0)
    killed, survived = 0, 0
    while killed < kills:
        choice = paths[CHOICES[(killed + survived) % 2]]
        code = build_for(rng.uniform(0.05, 0.7) * took, root, choice, workers)
        assert code in (0, -9)
        killed += code == -9
        if code == 0:  # it was faster than the reference: kill the next one earlier
            survived += 1
            took *= 0.7
        assert survived < 30
        assert cases_of(store_content(root)).items() <= whole.items()
    assert build_for(300, root, paths, workers) == 0
    content = store_content(root)  # with tables of other choices of the same cases
    assert whole.items() <= content.items()
    assert len(cases_of(content)) == CASES
    assert leftovers(root) == []


def cases_of(content: Content) -> Content:
    return {name: files for name, files in content.items() if name.startswith("cases/")}


def remove_and_die(root: Path, kept: list[Path], survived: int) -> None:
    """Dies with one file of a folder gone, after so many whole folders."""
    remove, calls = shutil.rmtree, itertools.count()

    def half(folder: Path, **options: Any) -> None:
        if next(calls) < survived:
            return remove(folder, **options)
        next(path for path in folder.iterdir() if path.suffix != ".json").unlink()
        os._exit(9)

    store.shutil.rmtree = half
    update_store(root, kept, quiet=True)


@pytest.mark.parametrize("survived", [0, 1, 2])
def test_killed_while_cases_and_their_table_are_removed(
    survived: int, paths: list[Path], tmp_path: Path
) -> None:
    """The half that is left is not taken for the case when the file returns."""
    root = tmp_path / "store"
    root.mkdir()
    SliceIndex.create(root, update_store(root, paths[:3], quiet=True))
    whole = store_content(root)
    process = _context.Process(target=remove_and_die, args=(root, paths[:1], survived))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert len(leftovers(root)) == 1
    assert len(store_content(root)) == len(whole) - survived - 1
    SliceIndex.create(root, update_store(root, paths[:3], quiet=True))
    assert store_content(root) == whole
    assert leftovers(root) == []


def test_a_builder_without_its_parent_cannot_name_what_is_being_removed(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process holds the lock and clears up while a worker of a killed one still writes."""
    root = tmp_path / "store"
    root.mkdir()
    flush = build._flush

    def clear_up_meanwhile(folder: Path) -> None:
        flush(folder)
        with monkeypatch.context() as half:
            half.setattr(build, "_flush", flush)
            half.setattr(store.shutil, "rmtree", lambda f, **_: (f / "objects.npy").unlink())
            store._remove_leftovers(root / "cases")

    (root / "cases").mkdir()
    monkeypatch.setattr(build, "_flush", clear_up_meanwhile)
    with monkeypatch.context() as half:
        half.setattr(build.shutil, "rmtree", lambda *_, **__: None)
        assert isinstance(build.build_case(paths[0], root / "cases"), UserError)
    assert store_content(root) == {}
    monkeypatch.undo()
    (case,) = update_store(root, paths[:1], quiet=True)
    assert json.loads((root / "sources.json").read_text())[str(paths[0].resolve())]
    assert f"cases/{case.folder}" in store_content(root)
    assert leftovers(root) == []
