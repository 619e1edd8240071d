"""Which slice comes when: pure functions of (seed, epoch, position), on any number of ranks.

An epoch is a sequence of slice ids, cut into global batches of ``batch_size * world_size``; rank
``r`` takes the ``r``-th part of each. Two ranks with half the batch each so see exactly what one
rank with the whole batch sees. The last global batch is filled with ``PADDING``, so that every rank
has the same number of batches and every slice comes once; with weights, as often as ``epoch_order``
draws it.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

# Stands for a sample without prompts.
PADDING = -1
# Keeps the stream that orders an epoch apart from those of its samples.
ORDER_STREAM = 2**32 - 1
# The step whose multiples, modulo 1, fill the unit interval most evenly, however many there are.
GOLDEN_STEP = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True)
class SampleKey:
    """Everything that decides what a training sample looks like, besides seed and configuration.

    Attributes:
        epoch: Epoch number, from 0.
        slice_id: Number of the slice in the index, or ``PADDING``.
        repeat: How often the slice came in this epoch before; above 0 with weights only.
    """

    epoch: int
    slice_id: int
    repeat: int = 0


@dataclass(frozen=True)
class Position:
    """How far training has come.

    Attributes:
        epoch: Epoch number, from 0.
        samples: Samples of this epoch that are done, over all ranks; a multiple of no batch size in
            particular, since a run may continue with another one.
    """

    epoch: int = 0
    samples: int = 0


def epoch_order(
    foreground: Int64[np.ndarray, " f"],
    background: Int64[np.ndarray, " k"],
    n_background: int,
    *,
    seed: int,
    epoch: int,
    weights: Float64[np.ndarray, " slices"] | None = None,
) -> Int64[np.ndarray, " n"]:
    """Returns the slice ids of an epoch in order.

    Args:
        foreground: Slices with labels; each comes once or, with weights, ``len(foreground)`` draws
            fall on them.
        background: Label-free slices, of which the epoch draws its own.
        n_background: How many of them, at most ``len(background)``.
        seed: >= 0.
        epoch: >= 0.
        weights: Relative chance of every slice of the index, above 0 for those given here; None
            for equal ones.
    """
    rng = np.random.default_rng([ORDER_STREAM, seed, epoch])
    if weights is None:
        drawn = rng.choice(background, size=n_background, replace=False)
    else:
        start = np.random.default_rng([ORDER_STREAM, seed]).random()
        offset = (start + epoch * GOLDEN_STEP) % 1.0
        foreground = spread_draws(foreground, weights[foreground], len(foreground), offset)
        drawn = spread_draws(background, weights[background], n_background, offset)
    return rng.permutation(np.concatenate([foreground, drawn]))


def spread_draws(
    slices: Int64[np.ndarray, " n"],
    weights: Float64[np.ndarray, " n"],
    draws: int,
    offset: float,
) -> Int64[np.ndarray, " draws"]:
    """Draws slices in proportion to their weights, by systematic sampling.

    The slices lie along a line, each as long as its expected number of draws, and one draw falls
    on every ``offset + k``. A slice is drawn its expected number of times rounded down or up, and
    so is every run of slices: a case, a data set. Draws that know nothing of each other would leave
    out e^-1 = 37 % of equally weighted slices in an epoch, and a rare modality would come by luck.
    From epoch to epoch the offset moves by ``GOLDEN_STEP``, so that slices which do not come in
    every epoch take turns.

    Args:
        slices: Ids.
        weights: Of each, above 0.
        draws: How many.
        offset: In [0, 1).
    """
    if draws == 0:
        return slices[:0]
    ends = np.cumsum(weights)
    reached = np.floor(ends / ends[-1] * draws + offset).astype(np.int64)
    reached = np.minimum(reached, draws)  # a sum that was rounded up
    return np.repeat(slices, np.diff(reached, prepend=0))


def count_repeats(order: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Returns for each entry how many equal ones come before it."""
    by_id = np.argsort(order, kind="stable")
    ids = order[by_id]
    first = np.searchsorted(ids, ids, side="left")
    repeats = np.empty(len(order), np.int64)
    repeats[by_id] = np.arange(len(order)) - first
    return repeats


def rank_batches(
    order: Int64[np.ndarray, " n"], batch_size: int, *, rank: int = 0, world_size: int = 1
) -> Int64[np.ndarray, "batches batch_size"]:
    """Returns the batches of one rank; the end is filled with ``PADDING``.

    Args:
        order: What is left of an epoch, over all ranks; may be empty.
        batch_size: Samples per batch and rank.
        rank: This rank.
        world_size: Ranks.
    """
    whole = -(-len(order) // (batch_size * world_size)) * batch_size * world_size
    padded = np.full(whole, PADDING, np.int64)
    padded[: len(order)] = order
    return padded.reshape(-1, world_size, batch_size)[:, rank]


def batch_count(samples: int, global_batch: int) -> int:
    """Returns the number of global batches that hold ``samples`` samples."""
    return -(-samples // global_batch)


def advance(
    position: Position, batches: int, *, samples: int, global_batch: int, limit: int | None = None
) -> Position:
    """Returns where training stands after some more batches.

    Args:
        position: Where it stood.
        batches: Batches (per rank) done since.
        samples: Samples of an epoch.
        global_batch: Samples of a batch over all ranks.
        limit: Batches after which an epoch is cut short (Lightning's ``limit_train_batches``).

    Returns:
        The position; a completed epoch is the beginning of the next one.
    """
    whole = batch_count(samples, global_batch)
    per_epoch = whole if limit is None else min(limit, whole)
    done = whole - batch_count(samples - position.samples, global_batch)
    left = max(per_epoch - done, 0)
    if batches < left:
        return Position(position.epoch, position.samples + batches * global_batch)
    epochs, rest = divmod(batches - left, per_epoch)
    return Position(position.epoch + 1 + epochs, rest * global_batch)


class TrainBatches:
    """Batch sampler of training; each iteration begins where ``position`` says.

    Args:
        foreground: Slices with labels.
        background: Label-free slices.
        n_background: How many of the latter each epoch draws.
        data_key: Names the data that the slice ids refer to.
        seed: Seed of the order.
        batch_size: Samples per batch and rank.
        rank: This rank.
        world_size: Ranks.
        position: Tells where training stands when an iteration begins. Lightning begins one before
            any of its epoch hooks runs, so nothing can be pushed here in time.
        weights: Of every slice of the index, None where all are equal; see ``epoch_order``.
    """

    def __init__(
        self,
        foreground: np.ndarray,
        background: np.ndarray,
        n_background: int,
        *,
        data_key: str,
        seed: int,
        batch_size: int,
        rank: int,
        world_size: int,
        position: Callable[[], Position],
        weights: np.ndarray | None = None,
    ) -> None:
        self.foreground = foreground
        self.background = background
        self.n_background = n_background
        self.data_key = data_key
        self.seed = seed
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self.weights = weights

    @property
    def fingerprint(self) -> str:
        """Differs wherever the epochs would."""
        key = f"{self.data_key}-{self.seed}-{self.n_background}"
        if self.weights is None:
            return key
        return f"{key}-{hashlib.sha256(self.weights.tobytes()).hexdigest()[:16]}"

    @property
    def global_batch(self) -> int:
        """Samples of a batch over all ranks."""
        return self.batch_size * self.world_size

    @property
    def samples(self) -> int:
        """Samples of an epoch over all ranks, without padding."""
        return len(self.foreground) + self.n_background

    def __len__(self) -> int:
        """Batches of a whole epoch per rank."""
        return batch_count(self.samples, self.global_batch)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yields the keys of each batch from the present position to the epoch's end."""
        at = self.position()
        order = epoch_order(
            self.foreground,
            self.background,
            self.n_background,
            seed=self.seed,
            epoch=at.epoch,
            weights=self.weights,
        )
        slices, repeats = (
            rank_batches(
                part[at.samples :], self.batch_size, rank=self.rank, world_size=self.world_size
            )
            for part in (order, count_repeats(order))
        )
        for batch, again in zip(slices, repeats, strict=True):
            yield [
                SampleKey(at.epoch, int(slice_id), max(int(repeat), 0))
                for slice_id, repeat in zip(batch, again, strict=True)
            ]


class FixedBatches:
    """Batch sampler of validation: all slices in ascending order, each once over all ranks.

    Args:
        slices: Slices with labels.
        batch_size: Samples per batch and rank.
        rank: This rank.
        world_size: Ranks.
    """

    def __init__(self, slices: np.ndarray, *, batch_size: int, rank: int, world_size: int) -> None:
        self._batches = rank_batches(slices, batch_size, rank=rank, world_size=world_size)

    def __len__(self) -> int:
        """Batches per rank."""
        return len(self._batches)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yields the keys of each batch."""
        for batch in self._batches:
            yield [SampleKey(0, int(slice_id)) for slice_id in batch]
