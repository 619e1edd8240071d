"""Resuming, awkward cases, bad options."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from result_files import rows_of, scores_of, slices_of
from tiny_model import write_model

from medsam2_ft.benchmarking import run as run_module
from medsam2_ft.benchmarking.jobs import Job, load
from medsam2_ft.benchmarking.jobs import run_job as real_run_job
from medsam2_ft.benchmarking.records import Journal, Record
from medsam2_ft.commands.evaluate import evaluate
from medsam2_ft.errors import UserError


def count_jobs(monkeypatch: pytest.MonkeyPatch, stop_after: int = 1000) -> list[Job]:
    """Notes the jobs that are done from now on, and acts as Ctrl-C in the one after the last."""
    done: list[Job] = []

    def run_job(job: Job) -> Record:
        if len(done) == stop_after:
            raise KeyboardInterrupt
        done.append(job)
        return real_run_job(job)

    monkeypatch.setattr(run_module, "run_job", run_job)
    return done


def test_only_what_has_changed_is_done_again(
    volumes: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = volumes(3), tmp_path / "out"
    model = write_model(tmp_path / "m.pt")
    done = count_jobs(monkeypatch)

    def again(**options: Any) -> list[str]:
        done.clear()
        evaluate([data], models=[str(model)], out=out, device="cpu", figures=False, **options)
        return [job.case.name for job in done]

    names = ["case0", "case1", "case2"]
    assert again() == names
    first = scores_of(out)
    assert again() == []
    assert scores_of(out) == first
    assert again(strategies=["memory"]) == names
    assert len(rows_of(out)) == 6  # the earlier strategy stays in the tables
    (data / "case1.npz").write_bytes((data / "case2.npz").read_bytes())
    assert again() == ["case1"]
    changed = {row["case"]: row["dsc"] for row in rows_of(out)}
    assert changed["case1"] == changed["case2"]
    assert again(box_noise_px=200) == names
    assert {row["x0"] for row in rows_of(out)} != {row["x0"] for row in first}
    write_model(model, seed=9)
    assert again(box_noise_px=200) == names
    assert len(rows_of(out)) == 3


def test_weights_that_change_meanwhile_are_noticed(
    volumes: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "m.pt")

    def run_job(job: Job) -> Record:
        write_model(model, seed=7)
        load(job.contender.where, anew=True)  # as a new process does
        return real_run_job(job)

    monkeypatch.setattr(run_module, "run_job", run_job)
    with pytest.raises(UserError, match=r"m\.pt: changed during the run"):
        evaluate([volumes(1)], models=[str(model)], out=tmp_path / "out", figures=False)


def test_an_interrupted_run_goes_on(
    volumes: Callable[[int], Path], tiny_export: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = volumes(4)
    done = count_jobs(monkeypatch, stop_after=2)
    options: dict[str, Any] = {"models": [str(tiny_export)], "device": "cpu", "figures": False}
    with pytest.raises(KeyboardInterrupt):
        evaluate([data], out=tmp_path / "out", **options)
    assert "2 of 4 results are finished" in capsys.readouterr().out
    early = [job.case.name for job in done]
    done = count_jobs(monkeypatch)
    evaluate([data], out=tmp_path / "out", **options)
    assert sorted([*early, *(job.case.name for job in done)]) == [f"case{i}" for i in range(4)]
    evaluate([data], out=tmp_path / "whole", **options)
    assert scores_of(tmp_path / "out") == scores_of(tmp_path / "whole")
    assert slices_of(tmp_path / "out") == slices_of(tmp_path / "whole")


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
def test_ctrl_c_in_a_process(
    volumes: Callable[[int], Path], tiny_export: Path, tmp_path: Path
) -> None:
    data, out = volumes(40), tmp_path / "out"
    args = [str(data), "--models", str(tiny_export), "--out", str(out), "--no_figures"]
    command = [sys.executable, "-m", "medsam2_ft", "evaluate", *args, "--device", "cpu"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[2/40]"):
            process.send_signal(signal.SIGINT)
            break
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    kept = len(Journal(out).read())
    assert 2 <= kept < 40
    # a result that was being written when the signal came may be kept without being counted
    assert any(f"{count} of 40 results are finished" in rest for count in (kept, kept - 1))


def test_awkward_cases_are_listed(
    volumes: Callable[[int], Path], tiny_export: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data, out = volumes(2), tmp_path / "out"
    (data / "broken.npz").write_bytes(b"PK no zip")
    np.savez(data / "void.npz", imgs=np.zeros((2, 9, 9), np.uint8), gts=np.zeros((2, 9, 9), int))
    np.savez(data / "bare.npz", imgs=np.zeros((9, 9), np.uint8))
    models = [str(tiny_export), "absent.pt", f"lost={tmp_path / 'gone.ckpt'}"]
    with pytest.raises(UserError, match=r"1 of 5 results failed.*data/broken, tiny: .*broken\.npz"):
        evaluate([data], models=models, out=out, device="cpu")
    shown = capsys.readouterr().out
    assert "skipped absent.pt: absent.pt: no such model and no such file" in shown
    rows = {row["case"]: row for row in rows_of(out)}
    status = {name: row["status"] for name, row in rows.items()}
    assert status == {
        "case0": "scored", "case1": "scored", "broken": "failed", "void": "empty", "bare": "empty",
    }  # fmt: skip
    assert "broken.npz" in rows["broken"]["reason"]
    assert rows["broken"]["dsc"] == rows["void"]["dsc"] == ""
    summary = (out / "summary.md").read_text()
    assert "- data: bare\n- data: void" in summary
    assert "- lost: " in summary
    assert "| data | broken | tiny | box |" in summary
    (group,) = json.loads((out / "summary.json").read_text())["groups"]
    assert (group["cases"], group["scores"]["dsc"]["tiny"]["n"]) == (2, 2)


@pytest.mark.slow
def test_workers_find_the_same(
    volumes: Callable[[int], Path], tiny_export: Path, tmp_path: Path
) -> None:
    data = volumes(3)
    for workers in (1, 2):
        evaluate(
            [data], models=[str(tiny_export), "random:tiny_test"], out=tmp_path / str(workers),
            device="cpu", figures=False, workers=workers, strategies=["box"],
        )  # fmt: skip
    assert scores_of(tmp_path / "1") == scores_of(tmp_path / "2")
    assert "random weights, whose scores say nothing" in (tmp_path / "1/summary.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"out": None}, "--out is missing"),
        ({"models": None}, "--models is missing"),
        ({"workers": 0}, "--workers is 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"overlays": -1}, "--overlays is -1"),
        ({"strategies": ["boxes"]}, "--strategies boxes: choose from box, memory"),
        ({"splits": ["all"]}, "--splits all: choose from train"),
        ({"shard": "3/2"}, "--shard 3/2"),
        ({"models": ["absent.pt"]}, "no model to evaluate: absent.pt"),
        ({"tolerance_mm": -1.0}, "--tolerance_mm is -1"),
    ],
)
def test_bad_options(
    options: dict[str, Any], said: str, volumes: Callable[[int], Path], tmp_path: Path
) -> None:
    given = {"models": ["random:tiny_test"], "out": tmp_path / "out"} | options
    with pytest.raises(UserError, match=said):
        evaluate([volumes(1)], **given)
    assert not (tmp_path / "out").exists()


def test_models_are_told_apart(
    volumes: Callable[[int], Path], tiny_export: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is given twice"):
        evaluate([volumes(1)], models=[str(tiny_export)] * 2, out=tmp_path / "out", device="cpu")


def test_a_folder_in_use_is_left_alone(
    volumes: Callable[[int], Path], tiny_export: Path, tmp_path: Path
) -> None:
    from filelock import FileLock

    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(UserError, match="another evaluate is at work"):
        evaluate([volumes(1)], models=[str(tiny_export)], out=out, device="cpu")
