"""Whether a SLURM job goes back into the queue."""

import os
import signal
from pathlib import Path

import pytest

from medsam2_ft.slurm import is_requeued, job_id, requeue, why_not

SHOWN = (
    "JobId=17 JobName=medsam2-ft UserId=me(1000) JobState={state} Reason={reason} Requeue={requeue}"
    " Restarts=0 BatchFlag={batch} ExitCode=0:0 RunTime=00:10:00 TimeLimit=01:00:00"
    " PreemptEligibleTime=2026-01-01T10:00:00 PreemptTime={preempted} SuspendTime=None"
)


def shown(state: str, reason: str = "None", preempted: str = "None", **flags: int) -> str:
    values = {"requeue": 1, "batch": 1} | flags
    return SHOWN.format(state=state, reason=reason, preempted=preempted, **values)


def test_an_array_task_is_not_the_whole_array() -> None:
    alone = {"SLURM_JOB_ID": "17"}
    assert job_id({}) is None
    assert job_id(alone) == "17"
    # the last task of an array shares its SLURM_JOB_ID with the array
    task = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}
    assert job_id(alone | task) == "17_3"


@pytest.mark.parametrize(
    ("signum", "text"),
    [
        pytest.param(signal.SIGUSR1, shown("RUNNING"), id="before the time limit"),
        pytest.param(
            signal.SIGTERM, shown("RUNNING", preempted="2026-01-01T10:09:00"), id="grace time"
        ),
        pytest.param(
            signal.SIGTERM, shown("COMPLETING", preempted="2026-01-01T10:09:00"), id="preempted"
        ),
        pytest.param(signal.SIGTERM, shown("COMPLETING", "TimeLimit"), id="time limit"),
    ],
)
def test_what_the_scheduler_ends_is_requeued(signum: signal.Signals, text: str) -> None:
    assert why_not(signum, text) is None


@pytest.mark.parametrize(
    ("signum", "text", "why"),
    [
        (signal.SIGTERM, shown("COMPLETING"), "cancelled"),
        (signal.SIGUSR1, shown("COMPLETING"), "cancelled"),
        (signal.SIGUSR1, shown("CANCELLED"), "cancelled"),
        (signal.SIGTERM, shown("RUNNING"), "did not come from the scheduler"),
        (signal.SIGUSR1, shown("RUNNING", requeue=0), "--no-requeue"),
        (signal.SIGUSR1, shown("RUNNING", batch=0), "no batch job"),
    ],
)
def test_what_the_user_ends_is_not(signum: signal.Signals, text: str, why: str) -> None:
    reason = why_not(signum, text)
    assert reason is not None
    assert why in reason


@pytest.mark.parametrize(
    ("text", "restarts", "expected"),
    [
        (shown("PENDING"), 0, True),
        (shown("COMPLETING"), 0, False),
        (shown("COMPLETING").replace("Restarts=0", "Restarts=2"), 1, True),
        (shown("COMPLETING").replace("Restarts=0", "Restarts=2"), 2, False),
    ],
)
def test_a_job_that_somebody_else_requeues(text: str, restarts: int, expected: bool) -> None:
    assert is_requeued(text, restarts) is expected


def test_without_scontrol_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = requeue("17", signal.SIGUSR1)
    assert not outcome.done
    assert "there is no scontrol on this node" in outcome.message


def test_what_scontrol_refuses_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "scontrol"
    program.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    outcome = requeue("17", signal.SIGUSR1)
    assert not outcome.done
    assert "Invalid job id" in outcome.message
