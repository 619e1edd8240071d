"""Ctrl-C, SIGKILL and lost workers in the middle of a run, then the same command again."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np
import psutil
import pytest
from nifti_sets import box_labels, read_manifest, read_splits, snapshot, write_nifti

from medsam2_ft.errors import UserError
from medsam2_ft.io.sources import Source
from medsam2_ft.prepare import prepare
from medsam2_ft.prepare.build import Job, build_case
from medsam2_ft.prepare.folder import locked
from medsam2_ft.prepare.manifest import Journal, Record
from medsam2_ft.prepare.pairing import Pair
from medsam2_ft.prepare.patients import Veil
from medsam2_ft.prepare.pool import run_jobs
from medsam2_ft.prepare.settings import Settings
from medsam2_ft.prepare.sources import SourceFile

COUNT = 10
# A test run in the background ignores Ctrl-C, and its children inherit that.
COMMAND = """
import signal, sys
from medsam2_ft.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
SHAPE = (24, 160, 160)  # a few tenths of a second each


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    labels = np.zeros(SHAPE, np.uint8)
    labels[:4, :20, :24] = box_labels()
    for i in range(COUNT):
        image = rng.integers(-900, 900, SHAPE).astype(np.int16)
        write_nifti(root / f"images/c{i}.nii", image)
        write_nifti(root / f"labels/c{i}.nii", labels)
    return root


def start(sources: Path, out: Path) -> "subprocess.Popen[str]":
    arguments = [str(sources / "images"), str(sources / "labels"), str(out)]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "prepare", *arguments, "--modality", "CT",
         "--workers", "2", "--val_share", "0.3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def finished(out: Path) -> int:
    journal = out / ".prepare/journal.jsonl"
    return journal.read_text().count('"written"') if journal.exists() else 0


def again(sources: Path, out: Path) -> None:
    """The same command completes, and its result is that of an undisturbed run."""
    kept = finished(out)
    summary = prepare(
        sources / "images", sources / "labels", out, modality="CT", workers=1, val_share=0.3
    )
    assert summary.up_to_date >= kept >= 2
    assert summary.built == COUNT - summary.up_to_date
    calm = out.with_name("calm")
    prepare(sources / "images", sources / "labels", calm, modality="CT", workers=1, val_share=0.3)
    assert read_splits(out) == read_splits(calm)
    assert read_manifest(out) == read_manifest(calm)
    assert {k: v[1] for k, v in snapshot(out).items()} == {
        k: v[1] for k, v in snapshot(calm).items()
    }


def test_ctrl_c_keeps_what_is_finished(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(sources, out)
    wait_until(lambda: finished(out) >= 2)
    os.killpg(process.pid, signal.SIGINT)  # the terminal sends it to the workers, too
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines() == ["interrupted"]
    assert f"of {COUNT} cases are finished and kept; run the same command again" in said
    assert [path.name for path in out.iterdir()] == [".prepare"], "no split, no case to train on"
    again(sources, out)


def test_sigkill_loses_no_finished_case_and_leaves_no_worker(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(sources, out)
    wait_until(lambda: finished(out) >= 2)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    with (out / ".prepare/journal.jsonl").open("a") as stream:
        stream.write('{"name": "c9", "status": "wri')  # a line that was cut off
    again(sources, out)


def test_a_lost_worker_is_explained(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(sources, out)
    wait_until(lambda: finished(out) >= 2)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    workers[0].kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith("error: a worker process was killed")
    assert len(errors.splitlines()) == 1
    again(sources, out)


@pytest.mark.timeout(60)
def test_a_stop_does_not_wait_for_running_cases(sources: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stuck.nii")  # reading it never ends
    files = [sources / "images/c0.nii", tmp_path / "stuck.nii"]
    labels = SourceFile(Source(sources / "labels/c0.nii"), PurePath("c0.nii"))
    jobs = [
        Job(
            Pair(path.stem, SourceFile(Source(path), PurePath(path.name)), labels),
            Settings("CT"),
            "",
            "",
            tmp_path / f"{path.stem}.npz",
        )
        for path in files
    ]  # fmt: skip

    def stop(record: Record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(build_case, jobs, 2, stop)
    assert not multiprocessing.active_children()


def test_a_torn_line_costs_one_record(tmp_path: Path) -> None:
    (tmp_path / ".prepare").mkdir()
    journal = Journal(tmp_path, Veil())
    assert journal.read() == {}
    records = {n: Record(n, "written", "r", f"{n}.nii", None, {}, {}, n) for n in "ab"}
    journal.append(records["a"])
    with journal.path.open("a") as stream:
        stream.write('{"name": "c", "status": "wri')
    journal.append(records["b"])
    assert journal.read() == records


def test_two_at_once_are_refused(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked(out), pytest.raises(UserError, match="another prepare is at work"):
        prepare(sources / "images", sources / "labels", out, modality="CT", workers=1)
    assert not out.exists()


def test_a_full_disk_stops_the_run(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medsam2_ft.prepare import build

    written: list[Path] = []

    def full(path: Path, case: object) -> None:
        written.append(path)
        raise UserError(f"{path}: cannot be written") from OSError(28, "No space left on device")

    monkeypatch.setattr(build, "write_case", full)
    with pytest.raises(UserError, match="cannot be written"):
        prepare(sources / "images", sources / "labels", tmp_path / "o", modality="CT", workers=1)
    assert len(written) == 1, "the first failure already tells that no other case can be written"
