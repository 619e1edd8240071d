"""Runs ``train.py`` in processes that can be killed, without paying for the imports every time.

A fork server imports Lightning and the package once; every run is a fork of it. ``killed_at`` names
the moment at which the process sends itself SIGKILL, ``signalled_at`` a function before whose n-th
call it sends itself a signal that it can handle.

A rank of `start_ranks` leads a process group, to which its loaders and W&B's service belong, so
that ``kill_group`` ends them all, as a scheduler does.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

Moment = Literal["start", "batch", "checkpoint_write", "checkpoint_written", "before_validation"]
# ``module:attribute[.attribute]`` of the function, which of its calls (from 0), and the signal.
Signalled = tuple[str, int, signal.Signals]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["medsam2_ft.cli", "monai.losses", "training_process"])


def start(
    args: list[str],
    *,
    killed_at: tuple[Moment, int] | None = None,
    delay_s: float | None = None,
    signalled_at: Sequence[Signalled] = (),
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    probe: Path | None = None,
    observed: Path | None = None,
    own_group: bool = False,
) -> Any:
    """Starts ``train.py`` with ``args`` and returns the process.

    With ``delay_s`` its group is killed from outside, so long after the moment ``killed_at``.
    With ``probe`` it trains by plain SGD and saves what the first optimiser step used there. With
    ``observed`` it notes there what it does, see `_observe`.
    """
    process = _context.Process(
        target=_run,
        args=(
            *(args, killed_at, delay_s, signalled_at, dict(environment or {})),
            *(log, probe, observed, own_group),
        ),
        daemon=False,
    )
    process.start()
    return process


def start_ranks(
    args: list[str],
    options: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str] | None = None,
) -> list[Any]:
    """Starts the ranks of a DDP training on this machine, each with its own options of `start`."""
    shared = {
        **(environment or {}),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(len(options)),
        "NODE_RANK": "0",
    }
    args = [*args, f"--trainer.devices={len(options)}", "--trainer.strategy=ddp"]
    return [
        start(args, environment=shared | {"LOCAL_RANK": str(rank)}, own_group=True, **own)
        for rank, own in enumerate(options)
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill_group(process: Any) -> None:
    """Kills a run, if it still runs, with whatever it started."""
    process.kill()  # it may not have its group yet
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def train(args: list[str], **options: Any) -> int:
    """Runs ``train.py`` to its end; returns the exit code, -9 after a kill."""
    process = start(args, **options)
    process.join(300)
    assert process.exitcode is not None, "the run takes too long"
    return int(process.exitcode)


def _run(
    args: list[str],
    killed_at: tuple[Moment, int] | None,
    delay_s: float | None,
    signalled_at: Sequence[Signalled],
    environment: dict[str, str],
    log: Path | None,
    probe: Path | None,
    observed: Path | None,
    own_group: bool,
) -> None:
    import sys

    import torch

    if own_group:
        os.setpgid(0, 0)
    os.environ.pop("WANDB_SERVICE", None)  # of a W&B run in the tests' own process
    os.environ.update(environment)
    if log is not None:
        stream = log.open("a")
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = sys.argv[:1]
    if killed_at is not None:
        _arrange_kill(*killed_at, _die if delay_s is None else partial(_be_killed, delay_s))
    for moment in signalled_at:
        _arrange_signal(*moment)
    if probe is not None:
        _arrange_probe(probe)
    if observed is not None:
        _observe(observed)
    from medsam2_ft.cli import main
    from medsam2_ft.entry import run

    sys.exit(run(lambda: main(args)))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _be_killed(delay_s: float) -> None:
    subprocess.Popen(["sh", "-c", f"sleep {delay_s:.3f}; kill -KILL -{os.getpid()}"])


def _arrange_kill(moment: Moment, count: int, die: Callable[[], None]) -> None:
    """Calls ``die`` at the ``count``-th such moment, from 0."""
    if moment == "start":
        die()
        return
    seen = {"n": -1}

    def is_due() -> bool:
        seen["n"] += 1
        return seen["n"] == count

    arrangements = {
        "batch": _kill_at_batch,
        "checkpoint_write": _kill_in_checkpoint_write,
        "checkpoint_written": _kill_behind_checkpoint_write,
        "before_validation": _kill_before_validation,
    }
    arrangements[moment](is_due, die)


def _kill_at_batch(is_due: Callable[[], bool], die: Callable[[], None]) -> None:
    from medsam2_ft import module

    training_step = module.FineTuner.training_step

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        if is_due():
            die()
        return training_step(self, batch, batch_idx)

    module.FineTuner.training_step = step


def _kill_before_validation(is_due: Callable[[], bool], die: Callable[[], None]) -> None:
    from medsam2_ft import module

    module.FineTuner.on_validation_start = lambda self: (
        die() if not self.trainer.sanity_checking and is_due() else None
    )


def _kill_in_checkpoint_write(is_due: Callable[[], bool], die: Callable[[], None]) -> None:
    from medsam2_ft.io import atomic

    sync = atomic.sync_and_replace

    def half_written(temporary: Path, target: Path) -> None:
        if target.suffix == ".ckpt" and is_due():
            with temporary.open("r+b") as file:
                file.truncate(temporary.stat().st_size // 2)
            die()
        sync(temporary, target)

    atomic.sync_and_replace = half_written


def _kill_behind_checkpoint_write(is_due: Callable[[], bool], die: Callable[[], None]) -> None:
    from medsam2_ft.io import atomic

    sync = atomic.sync_and_replace

    def written(temporary: Path, target: Path) -> None:
        sync(temporary, target)
        if target.name == "last.ckpt" and is_due():
            die()

    atomic.sync_and_replace = written


def _arrange_signal(function: str, count: int, signum: signal.Signals) -> None:
    module, _, path = function.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    calls = {"left": count}

    def signalled(*args: Any, **options: Any) -> Any:
        calls["left"] -= 1
        if calls["left"] == -1:
            signal.raise_signal(signum)
        return original(*args, **options)

    setattr(owner, name, signalled)


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
        return torch.optim.SGD([{"params": trained, "name": "all"}], lr=0.002)

    FineTuner.on_before_optimizer_step = hook
    FineTuner.configure_optimizers = sgd


def _observe(folder: Path) -> None:
    """Notes what this process does, a line of JSON each, in ``<folder>/<what>.jsonl``.

    ``samples``: epoch and digest of every slice that was trained on. ``stored``: every case that
    was written to the store. ``steps``: gradients exchanged (DDP's last bucket) since the step
    before.
    """
    import hashlib
    import json

    import torch
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    from medsam2_ft.data import build
    from medsam2_ft.module import FineTuner

    def note(what: str, *values: object) -> None:
        with (folder / f"{what}.jsonl").open("a") as file:
            file.write(json.dumps([os.environ.get("LOCAL_RANK", "0"), *values]) + "\n")

    training_step, write_case_arrays = FineTuner.training_step, build.write_case_arrays
    divide = FineTuner.on_before_optimizer_step
    exchanged: list[int] = []

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        for k, image in enumerate(batch.images):
            boxes = batch.boxes[batch.image_index == k]
            if len(boxes):  # else it is padding
                parts = image.numpy().tobytes() + boxes.numpy().tobytes()
                note("samples", self.current_epoch, hashlib.sha256(parts).hexdigest()[:12])
        return training_step(self, batch, batch_idx)

    def store(case: Any, target: Path) -> None:
        note("stored", case.name)
        write_case_arrays(case, target)

    def count(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        exchanged.extend([1] * bucket.is_last())
        return allreduce_hook(state, bucket)

    def on_train_start(self: Any) -> None:
        if self.trainer.world_size > 1:
            self.trainer.strategy.model.register_comm_hook(None, count)

    def before_step(self: Any, optimizer: Any) -> None:
        note("steps", len(exchanged))
        exchanged.clear()
        divide(self, optimizer)

    FineTuner.training_step = step
    FineTuner.on_train_start = on_train_start
    FineTuner.on_before_optimizer_step = before_step
    build.write_case_arrays = store
