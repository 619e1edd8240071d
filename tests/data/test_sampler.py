import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsam2_ft.data.draws import plan_negatives
from medsam2_ft.data.sampler import (
    PADDING,
    FixedBatches,
    Position,
    TrainBatches,
    advance,
    batch_count,
    epoch_order,
    rank_batches,
)

small = st.integers(1, 7)


START = Position()


def sampler(
    position: Position = START, *, batch_size: int = 2, rank: int = 0, world_size: int = 1
) -> TrainBatches:
    return TrainBatches(
        np.arange(0, 11),
        np.arange(11, 20),
        3,
        data_key="data",
        seed=5,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        position=lambda: position,
    )


@given(st.integers(0, 40), st.integers(0, 12), small, st.integers(0, 9), st.integers(0, 9))
def test_epoch_holds_every_labelled_slice_once(
    labelled: int, free: int, drawn: int, seed: int, epoch: int
) -> None:
    drawn = min(drawn, free)
    foreground, background = np.arange(labelled), np.arange(100, 100 + free)
    order = epoch_order(foreground, background, drawn, seed=seed, epoch=epoch)
    assert len(order) == labelled + drawn
    assert len(set(order)) == len(order)
    assert set(foreground) <= set(order) <= set(foreground) | set(background)
    again = epoch_order(foreground, background, drawn, seed=seed, epoch=epoch)
    np.testing.assert_array_equal(order, again)


def test_epochs_and_seeds_differ_in_order_and_in_label_free_slices() -> None:
    foreground, background = np.arange(50), np.arange(50, 100)
    orders = {
        (seed, epoch): epoch_order(foreground, background, 10, seed=seed, epoch=epoch)
        for seed in range(2)
        for epoch in range(2)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    assert len({frozenset(order) for order in orders.values()}) == 4


@given(st.integers(0, 50), small, small)
def test_ranks_share_every_sample_once_in_equally_many_batches(
    samples: int, batch_size: int, world_size: int
) -> None:
    order = np.random.default_rng(0).permutation(samples)
    parts = [
        rank_batches(order, batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({part.shape for part in parts}) == 1
    assert parts[0].shape == (batch_count(samples, batch_size * world_size), batch_size)
    joined = np.stack(parts, axis=1).ravel()
    np.testing.assert_array_equal(joined[:samples], order)
    assert (joined[samples:] == PADDING).all()
    assert len(joined) - samples < batch_size * world_size


def test_two_ranks_with_half_the_batch_see_what_one_rank_sees() -> None:
    whole = list(sampler(batch_size=4))
    halves = zip(*[list(sampler(batch_size=2, rank=r, world_size=2)) for r in (0, 1)], strict=True)
    assert whole == [first + second for first, second in halves]
    assert len(sampler(batch_size=4)) == len(sampler(batch_size=2, world_size=2)) == len(whole) == 4


def test_iteration_begins_at_the_position() -> None:
    whole = list(sampler(Position(3, 0)))
    assert list(sampler(Position(3, 4))) == whole[2:]
    assert all(key.epoch == 3 for batch in whole for key in batch)
    assert list(sampler(Position(4, 0))) != whole


@given(
    st.integers(1, 60),
    small,
    st.integers(0, 200),
    st.integers(0, 200),
    st.one_of(st.none(), st.integers(1, 9)),
)
def test_advancing_twice_is_advancing_once(
    samples: int, global_batch: int, first: int, second: int, limit: int | None
) -> None:
    def step(position: Position, batches: int) -> Position:
        return advance(position, batches, samples=samples, global_batch=global_batch, limit=limit)

    start = Position()
    assert step(step(start, first), second) == step(start, first + second)
    per_epoch = min(limit or samples, batch_count(samples, global_batch))
    epoch, batch = divmod(first, per_epoch)
    assert step(start, first) == Position(epoch, batch * global_batch)


@given(st.integers(1, 60), small, st.data())
def test_rest_of_an_epoch_takes_its_own_number_of_batches(
    samples: int, global_batch: int, data: st.DataObject
) -> None:
    done = data.draw(st.integers(0, samples - 1))
    left = batch_count(samples - done, global_batch)
    start = Position(2, done)
    options = {"samples": samples, "global_batch": global_batch}
    assert advance(start, left, **options) == Position(3, 0)
    assert advance(start, left - 1, **options).epoch == 2


def test_validation_has_a_fixed_order() -> None:
    slices = np.array([3, 5, 8, 13, 21])
    ranks = [FixedBatches(slices, batch_size=2, rank=r, world_size=2) for r in (0, 1)]
    assert [len(rank) for rank in ranks] == [2, 2]
    ids = [[key.slice_id for batch in rank for key in batch] for rank in ranks]
    assert ids == [[3, 5, 21, PADDING], [8, 13, PADDING, PADDING]]
    assert list(ranks[0]) == list(ranks[0])


@pytest.mark.parametrize(
    ("objects", "foreground", "background", "share", "expected"),
    [
        (100, 100, 1000, 0.0, (0, 0.0)),
        (90, 90, 1000, 0.1, (5, 5 / 90)),
        (90, 90, 0, 0.1, (0, 10 / 90)),
        (900, 90, 1000, 0.1, (9, 1.0)),
    ],
)
def test_negatives_are_shared_out(
    objects: int, foreground: int, background: int, share: float, expected: tuple[int, float]
) -> None:
    drawn, chance = plan_negatives(objects, foreground, background, share)
    assert (drawn, chance) == (expected[0], pytest.approx(expected[1]))
