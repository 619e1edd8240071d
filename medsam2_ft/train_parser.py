"""What ``train.py`` says about bad options: one line, whoever finds them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from medsam2_ft.command import OneLineParser
from medsam2_ft.errors import UserError

# Trainer takes any number and fails, or divides by zero, after the data are loaded.
SMALLEST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
}
LARGEST_SEED = 2**32 - 1


class TrainParser(OneLineParser, LightningArgumentParser):
    """Reports a bad option or a bad YAML file in one line instead of a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Names a missing option as the user writes it: ``--data.x`` for ``fit.data.x``."""
        super().error(re.sub(r"(arguments are required: )\w+\.", r"\1--", message), ex)


def check_numbers(config: Any) -> None:
    """Checks what neither the parser nor the trainer checks.

    Args:
        config: Parsed configuration of a subcommand.

    Raises:
        UserError: A number is out of range.
    """
    for name, smallest in SMALLEST.items():
        value = config.trainer.get(name)
        if value is not None and not value >= smallest:
            raise UserError(f"--trainer.{name} is {value}; choose at least {smallest}")
    if not 0 <= config.seed_everything <= LARGEST_SEED:
        raise UserError(
            f"--seed_everything is {config.seed_everything}; choose 0 to {LARGEST_SEED}"
        )


@contextmanager
def trainer_complaints() -> Iterator[None]:
    """Turns what Lightning's trainer says about its options into the line that the user reads.

    Raises:
        UserError: An option is impossible, or two of them contradict each other.
    """
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(f"--trainer: {error}") from error
    except ValueError as error:
        if "`val_check_interval`" not in str(error):  # known when the batches are counted
            raise
        raise UserError(f"--trainer: {error}") from error


@contextmanager
def constructor_complaints() -> Iterator[None]:
    """Unwraps what a constructor says: the parser wraps it where an argument is optional.

    Raises:
        UserError: What the constructor raised.
    """
    try:
        yield
    except ValueError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise
