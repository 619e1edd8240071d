"""A disk that is full or gone: the run pauses and goes on, or ends in one line; nothing is lost."""

import csv
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic
import torch
from test_preemption import arguments, assert_same_end, on_ranks
from training_process import start, train

from medsam2_ft.run_log import MetricsCsv

STEP = "medsam2_ft.module:FineTuner.training_step"
STOPPED_AT = 5  # the third step, of which the second one was saved
EVERY_STEP = {"last.every_n_steps": 1}


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """``mounted(100)`` makes a file system of 100 MiB; a checkpoint takes 65 MiB."""
    folder = tmp_path / "disk"

    def mount(size_mib: int) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "none", str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no small file system: {done.stderr.strip()} (needs root)")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Writes until nothing more fits; returns the file to remove."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**16, 2**12):
            while True:
                try:
                    file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
    return filler


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 4, 0), ("val", 2, 100)):
        synthetic.write_folder(folder / split, count, seed=seed)
    return folder


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    log = run.parent / "log"
    assert train(arguments(data, run, **EVERY_STEP), log=log) == 0, log.read_text()
    return run


def wait_until(is_so: Callable[[], bool], process: Any) -> None:
    for _ in range(30000):
        if is_so():
            return
        assert process.is_alive(), "the run ended too early"
        time.sleep(0.01)
    pytest.fail("it never came to that")


def stopped_run(args: list[str], log: Path) -> Any:
    """Starts a run that halts itself in the third step."""
    process = start(args, signalled_at=[(STEP, STOPPED_AT, signal.SIGSTOP)], log=log)
    stat = Path(f"/proc/{process.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", process)
    return process


def saved_step(run: Path) -> int:
    return int(torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"])


def test_a_full_disk_pauses_the_run(
    mounted: Callable[[int], Path], data: Path, reference: Path, tmp_path: Path
) -> None:
    disk = mounted(400)
    run, log = disk / "run", tmp_path / "log"
    process = stopped_run(arguments(data, run, **EVERY_STEP), log)
    filler = fill(disk)
    os.kill(process.pid, signal.SIGCONT)
    wait_until(lambda: "paused:" in log.read_text(), process)
    assert saved_step(run) == 2
    filler.unlink()
    process.join(300)
    text = log.read_text()
    assert process.exitcode == 0, text
    assert "No space left on device" in text
    assert "the disk is back" in text
    assert_same_end(run, reference)


def test_a_folder_that_vanishes_pauses_the_run(data: Path, reference: Path, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    process = stopped_run(arguments(data, run, **EVERY_STEP), log)
    away = run.rename(tmp_path / "away")
    os.kill(process.pid, signal.SIGCONT)
    wait_until(lambda: "paused:" in log.read_text(), process)
    assert not run.exists(), "it must not be made anew on another disk"
    away.rename(run)
    process.join(300)
    assert process.exitcode == 0, log.read_text()
    assert_same_end(run, reference)


def test_a_disk_that_stays_full_ends_all_ranks(
    mounted: Callable[[int], Path], data: Path, tmp_path: Path
) -> None:
    """There is room for one checkpoint, not for the next one beside it."""
    run, log = mounted(100) / "run", tmp_path / "log"
    args = arguments(data, run, **EVERY_STEP, **{"last.wait_for_disk_min": 0.02})
    codes = on_ranks(args, log)
    text = log.read_text()
    assert codes == [2, 2], text
    assert "Traceback" not in text
    assert "No space left on device" in text
    assert saved_step(run) == 1
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]


def read(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_wait_for_the_disk(mounted: Callable[[int], Path]) -> None:
    small_disk = mounted(1)
    log = MetricsCsv(str(small_disk))
    log.log_metrics({"train/loss": 0.5}, step=0)
    filler = fill(small_disk)
    for step in range(1, 400):
        log.log_metrics({"train/loss": 0.5 + step}, step=step)
    assert len(read(small_disk)) < 400, "the disk is not full"
    log.log_metrics({"val/dsc": 0.25}, step=400)  # a new column, so a new file
    filler.unlink()
    log.flush()
    rows = read(small_disk)
    assert [int(row["step"]) for row in rows] == list(range(401))
    assert rows[-1]["val/dsc"] == "0.25"
