"""How often slices are drawn with weights, and that nothing changes without."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import write_npz

from medsam2_ft.data.datamodule import SliceDataModule
from medsam2_ft.data.sampler import (
    ORDER_STREAM,
    PADDING,
    Position,
    TrainBatches,
    count_repeats,
    epoch_order,
    spread_draws,
)
from medsam2_ft.data.sets import named_folders
from medsam2_ft.errors import UserError

START = Position()
weights_of = st.lists(st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.7]), min_size=1, max_size=60)


@given(weights_of, st.integers(0, 200), st.floats(0, 1, exclude_max=True), st.data())
def test_every_run_of_slices_is_drawn_its_expected_number_of_times(
    weights: list[float], draws: int, offset: float, data: st.DataObject
) -> None:
    own = np.array(weights)
    drawn = spread_draws(np.arange(len(own)) + 7, own, draws, offset)
    assert len(drawn) == draws
    first = data.draw(st.integers(0, len(own) - 1))
    last = data.draw(st.integers(first, len(own) - 1))
    expected = draws * own[first : last + 1].sum() / own.sum()
    found = int(((drawn >= first + 7) & (drawn <= last + 7)).sum())
    assert expected - 1 - 1e-9 < found < expected + 1 + 1e-9


def test_rare_slices_take_turns_over_epochs() -> None:
    """Drawn at random, the count of a slice over 200 epochs would have a deviation of 4 to 8."""
    weights = np.repeat([1.0, 0.1, 3.0], [40, 40, 20])
    ids = np.arange(100)
    epochs = [epoch_order(ids, ids[:0], 0, seed=3, epoch=e, weights=weights) for e in range(200)]
    counts = np.bincount(np.concatenate(epochs), minlength=100)
    np.testing.assert_array_less(np.abs(counts - 200 * 100 * weights / weights.sum()), 3.5)
    rare = [int((order // 40 == 1).sum()) for order in epochs]  # 40 slices of weight 0.1
    assert max(rare) - min(rare) <= 1


@given(st.integers(0, 40), st.integers(0, 12), st.integers(0, 5), st.integers(0, 2**40))
def test_without_weights_the_order_is_that_of_earlier_versions(
    labelled: int, drawn: int, epoch: int, seed: int
) -> None:
    foreground, background = np.arange(labelled), np.arange(100, 112)
    rng = np.random.default_rng([ORDER_STREAM, seed, epoch])
    free = rng.choice(background, size=drawn, replace=False)
    expected = rng.permutation(np.concatenate([foreground, free]))
    order = epoch_order(foreground, background, drawn, seed=seed, epoch=epoch)
    np.testing.assert_array_equal(order, expected)


@given(st.lists(st.integers(-1, 6), max_size=40))
def test_repeats_are_counted(ids: list[int]) -> None:
    seen: Counter[int] = Counter()
    for slice_id, repeat in zip(ids, count_repeats(np.array(ids, np.int64)), strict=True):
        assert repeat == seen[slice_id]
        seen[slice_id] += 1


def weighted(
    position: Position = START, *, batch_size: int = 6, rank: int = 0, world_size: int = 1
) -> TrainBatches:
    weights = np.repeat([1.0, 5.0, 0.3, 2.0], 10)
    return TrainBatches(
        np.arange(0, 33),
        np.arange(33, 40),
        4,
        weights=weights,
        data_key="data",
        seed=5,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        position=lambda: position,
    )


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_weighted_draws_without_a_sample_twice(world_size: int) -> None:
    whole = [key for batch in weighted() for key in batch]
    size = 6 // world_size
    ranks = [
        list(weighted(batch_size=size, rank=r, world_size=world_size)) for r in range(world_size)
    ]
    joined = [key for parts in zip(*ranks, strict=True) for part in parts for key in part]
    assert joined == whole
    real = [key for key in whole if key.slice_id != PADDING]
    assert len(real) == len(set(real)) == 37
    assert max(key.repeat for key in real) > 0


def test_weighted_epoch_goes_on_where_it_stood() -> None:
    whole = list(weighted(Position(2, 0)))
    assert list(weighted(Position(2, 18))) == whole[3:]


def test_weights_belong_to_what_a_checkpoint_compares() -> None:
    one, other = weighted(), weighted()
    assert one.fingerprint == other.fingerprint
    other.weights = np.ones(40)
    assert one.fingerprint != other.fingerprint


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Two sets: 8 labelled slices of CT and 4 of MR; 3 of PET and 6 that state no modality."""
    for folder, name, depth, modality in (
        ("one", "a", 10, "CT"),
        ("one", "b", 6, "MR"),
        ("two", "c", 5, "PET"),
        ("two", "d", 8, None),
    ):
        shape = (depth, 24, 26)
        write_npz(tmp_path / folder / f"{name}.npz", shape, (1,), modality=modality, seed=depth)
    return [str(tmp_path / "one"), str(tmp_path / "two")]


def module(folders: list[str], **changes: Any) -> SliceDataModule:
    options: dict[str, Any] = {"image_size": 64, "num_workers": 0, "val_share": 0.0}
    data = SliceDataModule(folders, **(options | changes))
    data.setup("fit")
    return data


def drawn_cases(data: SliceDataModule) -> Counter[str]:
    """How many draws of an epoch fall on labelled slices of each case."""
    index = data.library.index("train")
    names = [path.stem for path in data.case_paths("train")]
    labels = index.labels_per_slice()
    batches = data._train_batches
    assert batches is not None
    keys = [key.slice_id for batch in batches for key in batch if key.slice_id != PADDING]
    return Counter(names[index.slices[i, 0]] for i in keys if labels[i] > 0)


def test_weights_of_sets_and_modalities_multiply(folders: list[str]) -> None:
    assert drawn_cases(module(folders)) == {"a": 8, "b": 4, "c": 3, "d": 6}
    found = drawn_cases(
        module(folders, dataset_weights={"two": 2.0}, modality_weights={"MR": 3.0, "unknown": 0.25})
    )
    expected = {"a": 8 * 1.0, "b": 4 * 3.0, "c": 3 * 2.0, "d": 6 * 2 * 0.25}
    assert sum(found.values()) == 21
    for name, share in expected.items():
        assert abs(found[name] - 21 * share / 29) < 1, name


def test_weight_zero_leaves_out_the_label_free_slices_too(folders: list[str]) -> None:
    data = module(folders, modality_weights={"CT": 0.0}, negative_share=0.5, max_objects=1)
    batches = data._train_batches
    assert batches is not None
    names = [path.stem for path in data.case_paths("train")]
    cases = data.library.index("train").slices[:, 0]
    ids = [key.slice_id for batch in batches for key in batch if key.slice_id != PADDING]
    assert {names[cases[i]] for i in ids} == {"b", "c", "d"}
    assert len(batches.foreground) == 13
    assert {names[cases[i]] for i in batches.background} == {"b", "c", "d"}
    assert len(ids) > 13, "label-free slices come as well"


def test_equal_weights_change_nothing(folders: list[str]) -> None:
    plain, equal = module(folders), module(folders, dataset_weights={"one": 2.0, "two": 2.0})
    assert plain._train_batches is not None
    assert equal._train_batches is not None
    assert list(plain._train_batches) == list(equal._train_batches)
    assert plain.state_dict() == equal.state_dict()


def test_a_slice_that_comes_again_varies_anew(folders: list[str]) -> None:
    data = module(folders, modality_weights={"PET": 30.0})
    dataset, batches = data.train_dataloader().dataset, data._train_batches
    assert batches is not None
    keys = [key for batch in batches for key in batch if key.slice_id != PADDING]
    again = next(key for key in keys if key.repeat == 1)
    first = next(key for key in keys if key.slice_id == again.slice_id and key.repeat == 0)
    assert not np.array_equal(dataset[first].image, dataset[again].image)
    np.testing.assert_array_equal(dataset[again].image, dataset[again].image)


def test_two_sets_are_read_from_their_own_stores(folders: list[str], tmp_path: Path) -> None:
    data = module(folders)
    index = data.library.index("train")
    for slice_id, (case, z) in enumerate(index.slices):
        with np.load(data.case_paths("train")[case]) as file:
            image, labels = file["imgs"][z], file["gts"][z]
        folder = str(index.case_folders[case])
        np.testing.assert_array_equal(index.reader.image(folder, int(z)), image)
        objects = index.objects_of(slice_id)
        np.testing.assert_array_equal(objects[:, 2], np.unique(labels[labels > 0]))
    assert (tmp_path / "two/.store/cases").is_dir()
    elsewhere = module(folders, store_dir=str(tmp_path / "stores"))
    reader = elsewhere.library.index("train").reader
    last = str(elsewhere.library.index("train").case_folders[-1])
    np.testing.assert_array_equal(reader.image(last, 3), index.reader.image(folder, 3))


def test_the_joint_index_outlives_an_update_of_its_first_store(folders: list[str]) -> None:
    """Another run on the first set alone must not take the tables from under this one."""
    joint = module(folders).library.index("train").folder
    module(folders[:1])
    assert joint.is_dir()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("a/cases", ["cases"]),
        (["a/ct", "b/mr/"], ["ct", "mr"]),
        (["a/cases", "b/cases", "mr"], ["a/cases", "b/cases", "mr"]),
        (["a/x/cases", "b/x/cases"], ["a/x/cases", "b/x/cases"]),
        (["x", "x/../y"], ["x", "y"]),
    ],
)
def test_sets_are_named_by_their_folders(given: str | list[str], names: list[str]) -> None:
    assert list(named_folders(given)) == names


@pytest.mark.parametrize("given", [[], ["a", "b", "./a"]])
def test_unusable_lists_of_folders(given: list[str]) -> None:
    with pytest.raises(UserError, match=r"data\.data_dir"):
        named_folders(given)
