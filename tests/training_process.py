"""Runs ``train.py`` in processes that can be killed, without paying for the imports every time.

A fork server imports Lightning and the package once; every run is a fork of it. ``killed_at`` names
the moment at which the process sends itself SIGKILL (SIGTERM for ``terminated_in_volumes``).
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

Moment = Literal[
    "batch",
    "checkpoint_write",
    "checkpoint_written",
    "before_validation",
    "terminated_in_volumes",
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["medsam2_ft.cli", "monai.losses", "training_process"])


def start(
    args: list[str],
    *,
    killed_at: tuple[Moment, int] | None = None,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    probe: Path | None = None,
) -> Any:
    """Starts ``train.py`` with ``args`` and returns the process.

    With ``probe`` it trains by plain SGD and saves what the first optimiser step used there.
    """
    process = _context.Process(
        target=_run, args=(args, killed_at, dict(environment or {}), log, probe), daemon=False
    )
    process.start()
    return process


def train(args: list[str], **options: Any) -> int:
    """Runs ``train.py`` to its end; returns the exit code, -9 after a kill."""
    process = start(args, **options)
    process.join(300)
    assert process.exitcode is not None, "the run takes too long"
    return int(process.exitcode)


def _run(
    args: list[str],
    killed_at: tuple[Moment, int] | None,
    environment: dict[str, str],
    log: Path | None,
    probe: Path | None,
) -> None:
    import sys

    import torch

    os.environ.pop("WANDB_SERVICE", None)  # of a W&B run in the tests' own process
    os.environ.update(environment)
    if log is not None:
        stream = log.open("a")
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = sys.argv[:1]
    if killed_at is not None:
        _arrange_kill(*killed_at)
    if probe is not None:
        _arrange_probe(probe)
    from medsam2_ft.cli import main
    from medsam2_ft.entry import run

    sys.exit(run(lambda: main(args)))


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arrange_kill(moment: Moment, count: int) -> None:
    """Dies at the ``count``-th such moment, from 0."""
    seen = {"n": -1}

    def is_due() -> bool:
        seen["n"] += 1
        return seen["n"] == count

    arrangements = {
        "batch": _kill_at_batch,
        "checkpoint_write": _kill_in_checkpoint_write,
        "checkpoint_written": _kill_behind_checkpoint_write,
        "before_validation": _kill_before_validation,
        "terminated_in_volumes": _terminate_in_volume,
    }
    arrangements[moment](is_due)


def _kill_at_batch(is_due: Callable[[], bool]) -> None:
    from medsam2_ft import module

    training_step = module.FineTuner.training_step

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        if is_due():
            _die()
        return training_step(self, batch, batch_idx)

    module.FineTuner.training_step = step


def _kill_before_validation(is_due: Callable[[], bool]) -> None:
    from medsam2_ft import module

    module.FineTuner.on_validation_start = lambda self: (
        _die() if not self.trainer.sanity_checking and is_due() else None
    )


def _kill_in_checkpoint_write(is_due: Callable[[], bool]) -> None:
    from medsam2_ft.io import atomic

    sync = atomic.sync_and_replace

    def half_written(temporary: Path, target: Path) -> None:
        if target.suffix == ".ckpt" and is_due():
            with temporary.open("r+b") as file:
                file.truncate(temporary.stat().st_size // 2)
            _die()
        sync(temporary, target)

    atomic.sync_and_replace = half_written


def _kill_behind_checkpoint_write(is_due: Callable[[], bool]) -> None:
    from medsam2_ft.io import atomic

    sync = atomic.sync_and_replace

    def written(temporary: Path, target: Path) -> None:
        sync(temporary, target)
        if target.name == "last.ckpt" and is_due():
            _die()

    atomic.sync_and_replace = written


def _terminate_in_volume(is_due: Callable[[], bool]) -> None:
    from medsam2_ft.callbacks import propagation

    score_volume = propagation.score_volume

    def score(*args: Any, **options: Any) -> Any:
        if is_due():
            signal.raise_signal(signal.SIGTERM)
        return score_volume(*args, **options)

    propagation.score_volume = score


def _arrange_probe(target: Path) -> None:
    """Saves prompts and gradients of the first step of this rank; trains by SGD."""
    import torch

    from medsam2_ft.module import FineTuner

    divide = FineTuner.on_before_optimizer_step

    def hook(self: Any, optimizer: torch.optim.Optimizer) -> None:
        prompts = self.prompts_since_step
        divide(self, optimizer)
        file = target / f"rank{self.global_rank}.pt"
        if not file.exists():
            gradients = {n: p.grad.clone() for n, p in self.named_parameters() if p.requires_grad}
            torch.save({"prompts": prompts, "gradients": gradients}, file)

    def sgd(self: Any) -> torch.optim.Optimizer:
        trained = [p for p in self.parameters() if p.requires_grad]
        # at 0.05, twenty steps magnify rounding, which differs with the batch, a thousandfold
        return torch.optim.SGD([{"params": trained, "name": "all"}], lr=0.01)

    FineTuner.on_before_optimizer_step = hook
    FineTuner.configure_optimizers = sgd
