"""Out of memory: one line with what to turn down, in order, instead of a traceback."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature

from medsam2_ft.errors import UserError

TRAINING_REMEDIES = (
    "try in this order: a smaller --preset; half --data.batch_size with twice"
    " --trainer.accumulate_grad_batches; --model.activation_checkpointing true;"
    " --trainer.precision bf16-mixed (GPU); a smaller --data.image_size; fewer --data.num_workers;"
    " fewer --data.max_objects. The last checkpoint is kept: --ckpt_path last goes on"
)
# By the option that a command may have.
COMMAND_REMEDIES = {
    "workers": "fewer --workers",
    "image_size": "a smaller --image_size",
    "device": "--device cpu where the GPU is full",
}

_CPU = re.compile(r"DefaultCPUAllocator: (can't allocate memory|not enough memory)|bad_alloc")
_WORKER = re.compile(
    r"DataLoader worker .* (killed by signal: (Killed|Bus error)|exited unexpectedly)"
)
_SHARED = re.compile(r"[Bb]us error|insufficient shared memory|out of shared memory")


def command_remedies(function: Callable[..., object]) -> str:
    """Returns what to turn down: the options that a command has, and what always helps.

    Args:
        function: The command; its parameters are its options.
    """
    options = signature(function).parameters
    own = [advice for option, advice in COMMAND_REMEDIES.items() if option in options]
    return "; ".join(["try in this order: close other programs", *own])


def shortage(error: BaseException) -> str | None:
    """Returns what ran out, None where the error is about something else.

    Args:
        error: What was raised; its causes are looked at, too.
    """
    seen: BaseException | None = error
    while seen is not None:
        if found := _shortage(seen):
            return found
        seen = seen.__cause__ or seen.__context__
    return None


def _shortage(error: BaseException) -> str | None:
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return "the GPU is out of memory"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _CPU.search(text)):
        return "this computer is out of memory"
    if isinstance(error, RuntimeError) and _WORKER.search(text):
        if _SHARED.search(text):
            return "shared memory (/dev/shm) is too small for the loader's workers"
        return "a loader's worker was killed, as the system does when memory is short"
    return None


@contextmanager
def memory_advice(describe: Callable[[], str], remedies: str) -> Iterator[None]:
    """Turns a shortage of memory into the line that the user reads.

    Args:
        describe: Says where it happened and with which settings; called after the failure.
        remedies: What to turn down, in this order.

    Raises:
        UserError: Memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        what = shortage(error)
        if what is None:
            raise
        raise UserError(f"{describe()}: {what}; {remedies}") from error
