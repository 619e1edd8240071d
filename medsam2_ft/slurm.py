"""Puts the SLURM job that this process belongs to back into the queue.

Facts about SLURM (22.05) that this rests on:

* the processes of a job get SIGTERM at its time limit, when it is preempted, and from `scancel`;
  ``scontrol show job`` tells them apart, by ``PreemptTime`` and ``Reason``;
* ``JobState`` is COMPLETING for every job that is being ended, whatever the cause;
* one task of a job array has the whole array's id as its SLURM_JOB_ID, and all tasks would be
  requeued by that.
"""

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

TIMEOUT_S = 60


@dataclass(frozen=True)
class Requeue:
    """What became of the job.

    Attributes:
        done: Whether the job will start again.
        message: How it goes on, for the user.
    """

    done: bool
    message: str


def job_id(environment: Mapping[str, str] | None = None) -> str | None:
    """Returns the id that ``scontrol`` takes, ``12`` or ``12_3``; None outside SLURM."""
    env = os.environ if environment is None else environment
    if "SLURM_ARRAY_JOB_ID" in env and "SLURM_ARRAY_TASK_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env.get("SLURM_JOB_ID")


def is_requeued(shown: str, restarts: int) -> bool:
    """Whether a job goes into the queue without us: by ``scontrol requeue`` or by pre-emption.

    Args:
        shown: What ``scontrol --oneliner show job`` said; a job that is being ended for it is
            COMPLETING, with one restart more than it has had.
        restarts: How often this start of the job has been restarted.
    """
    facts = _facts(shown)
    return facts.get("JobState") == "PENDING" or int(facts.get("Restarts", 0)) > restarts


def why_not(signum: int, shown: str) -> str | None:
    """Returns why a job that got a signal is not to be requeued, None where it is.

    Args:
        signum: The signal.
        shown: What ``scontrol --oneliner show job`` said.
    """
    facts = _facts(shown)
    if facts.get("BatchFlag") != "1":
        return "it is no batch job"
    if facts.get("Requeue") == "0":
        return "it was submitted with --no-requeue"
    preempted = facts.get("PreemptTime", "None") not in ("None", "")
    ends_by_itself = preempted or facts.get("Reason") == "TimeLimit"
    running = facts.get("JobState") == "RUNNING"
    if ends_by_itself or (running and signum == signal.SIGUSR1):
        return None
    return "it was cancelled" if not running else "SIGTERM did not come from the scheduler"


def requeue(job: str, signum: int) -> Requeue:
    """Requeues a job, unless somebody wants it to end.

    Args:
        job: From ``job_id``.
        signum: The signal that the run is left for.
    """
    try:
        shown = _scontrol("--oneliner", "show", "job", job)
        if is_requeued(shown, int(os.environ.get("SLURM_RESTART_COUNT", "0"))):
            return Requeue(True, f"job {job} is in the queue again")
        reason = why_not(signum, shown)
        if reason is not None:
            return Requeue(False, f"job {job} is not requeued: {reason}")
        _scontrol("requeue", job)
    except FileNotFoundError:
        return Requeue(False, f"job {job} is not requeued: there is no scontrol on this node")
    except subprocess.TimeoutExpired:
        return Requeue(False, f"job {job} is not requeued: scontrol does not answer")
    except subprocess.CalledProcessError as error:
        said = " ".join(str(error.stderr).split())
        return Requeue(False, f"job {job} is not requeued: scontrol says {said}")
    return Requeue(True, f"job {job} is requeued")


def _facts(shown: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S*)", shown))


def _scontrol(*args: str) -> str:
    return subprocess.run(
        ["scontrol", *args], check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    ).stdout
