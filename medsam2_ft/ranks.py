"""What all processes of a training agree on.

Over gloo, on the CPU and without a time limit: nothing here makes a GPU wait, and the others may
wait for the first process as long as it needs (NCCL would give up and abort).
"""

import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from medsam2_ft.errors import UserError
from medsam2_ft.io.disk_wait import write_patiently
from medsam2_ft.stop_signals import Stopped, received

T = TypeVar("T")
_NO_LIMIT = timedelta(days=1000)
# The default group that the other one belongs to, and the other one.
_groups: tuple[Any, Any] | None = None


def agreed_signal() -> signal.Signals | None:
    """Returns the strongest signal that any process has got; all must ask at the same point."""
    own = received()
    if not _is_distributed():
        return own
    value = torch.tensor(int(own or 0))
    dist.all_reduce(value, op=dist.ReduceOp.MAX, group=_group())
    return signal.Signals(int(value)) if value else None


def stop_together() -> None:
    """Leaves all processes where any has got a signal; nothing is saved.

    Raises:
        Stopped: On all of them.
    """
    signum = agreed_signal()
    if signum is not None:
        raise Stopped(signum)


def from_first(value: T) -> T:
    """Returns the first process's value on all of them; waits for it."""
    if not _is_distributed():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_group(), device=torch.device("cpu"))
    return values[0]


def first_writes(write: Callable[[], object], wait_min: float) -> None:
    """Writes in the first process, which may have to wait for the disk; the others wait for it.

    Args:
        write: Writes all or nothing.
        wait_min: See `write_patiently`.

    Raises:
        UserError: On all processes, if the file could not be written.
    """
    problem: str | None = None
    if not _is_distributed() or dist.get_rank() == 0:
        try:
            write_patiently(write, wait_min)
        except UserError as error:
            problem = str(error)
    problem = from_first(problem)
    if problem is not None:
        raise UserError(problem)


def from_all(value: T) -> list[T]:
    """Returns the values of all processes by rank, on all of them."""
    if not _is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=_group())
    return values


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _group() -> Any:
    global _groups
    world = dist.group.WORLD
    if _groups is None or _groups[0] is not world:
        _groups = (world, dist.new_group(backend="gloo", timeout=_NO_LIMIT))
    return _groups[1]
