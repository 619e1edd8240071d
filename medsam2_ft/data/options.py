"""Checks of the data module's options, each in one line that names option, value and remedy."""

import math
from collections.abc import Mapping, Sequence

from medsam2_ft.data.targets import MOST_OBJECTS
from medsam2_ft.errors import UserError

# Hiera halves four times and attends in windows; Meta's sizes are multiples of 64 as well.
SIZE_STEP = 64


def check_numbers(
    *,
    image_size: int,
    batch_size: int,
    max_objects: int,
    num_workers: int,
    box_jitter_px: float,
    negative_share: float,
    seed: int,
) -> None:
    """Checks the options of the same names.

    Raises:
        UserError: A number is out of range.
    """
    sized = image_size >= SIZE_STEP and image_size % SIZE_STEP == 0
    _check("image_size", image_size, sized, f"a multiple of {SIZE_STEP}, such as 512")
    _check("batch_size", batch_size, batch_size >= 1, "at least 1")
    objects = 1 <= max_objects <= MOST_OBJECTS
    _check("max_objects", max_objects, objects, f"1 to {MOST_OBJECTS}")
    _check("num_workers", num_workers, num_workers >= 0, "0 or more")
    _check("box_jitter_px", box_jitter_px, 0 <= box_jitter_px < math.inf, "0 or more")
    _check("negative_share", negative_share, 0 <= negative_share <= 0.9, "0 to 0.9")
    _check("seed", seed, seed >= 0, "0 or more")


def _check(name: str, value: object, valid: bool, remedy: str) -> None:
    if not valid:
        raise UserError(f"data.{name} is {value}; choose {remedy}.")


def check_weights(option: str, weights: Mapping[str, float], known: Sequence[str]) -> None:
    """Checks the names and the numbers of a weighting option.

    Args:
        option: Its name.
        weights: Weight by name.
        known: The names that there are.

    Raises:
        UserError: An unknown name, or a weight that is not a finite number of at least 0.
    """
    for name, weight in weights.items():
        if name not in known:
            raise UserError(f"{option} names {name!r}; there are {', '.join(known)}.")
        if not 0 <= weight < math.inf:
            raise UserError(f"{option} gives {name} the weight {weight}; choose 0 or more.")
