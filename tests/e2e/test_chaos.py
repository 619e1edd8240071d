"""Two ranks are killed at random moments, again and again, and end where nothing was killed."""

import contextlib
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
import synthetic
import wandb_files
from run_files import assert_same_end, rows, wait_for_rows
from training_process import kill_group, start_ranks
from waiting import wait_until
from whole_files import assert_run_is_whole, leftovers, store_content

BATCHES = 12
LIMIT_S = 300
# A kill comes at one of so many batches after a start, and saves are frequent: a run of `KILLS`'
# length has enough left to be killed in.
REACH = 5
# Most seconds that the rank that is left may go on before the scheduler kills it, if at all.
SURVIVES_S = 4.0
KILLS = [
    pytest.param(3, 3, 0, id="three kills"),
    pytest.param(10, 7, 1, id="ten kills, with loaders", marks=pytest.mark.slow),
]


@dataclass(frozen=True)
class Pace:
    """Seconds that the uninterrupted run took to its first logged step, and for each other."""

    start_s: float
    step_s: float


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 8, 0), ("val", 2, 100)):
        synthetic.write_folder(folder / split, count, seed=seed)
    return folder


def arguments(data: Path, run: Path, epochs: int, workers: int) -> list[str]:
    values = {
        "run": run,
        "data.data_dir": data,
        "data.store_dir": run.parent / "store",
        "data.image_size": 64,
        "data.batch_size": 1,
        "data.num_workers": workers,
        "model.variant": "tiny_test",
        "model.weights": "random",
        "trainer.max_epochs": epochs,
        "trainer.limit_train_batches": BATCHES,
        "trainer.accelerator": "cpu",
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
        "pictures.val_slices": 0,
        "last.every_n_steps": 2,
        "wandb.mode": "offline",
        "ckpt_path": "last",
    }
    return ["fit", *(f"--{key}={value}" for key, value in values.items())]


@contextlib.contextmanager
def two_ranks(
    args: list[str], log: Path, kills: Mapping[int, Mapping[str, Any]] | None = None
) -> Iterator[list[Any]]:
    """Runs both ranks, ``kills`` says for each when it is killed; in the end none is left."""
    ranks = start_ranks(args, [{"log": log, **(kills or {}).get(rank, {})} for rank in range(2)])
    try:
        yield ranks
    finally:
        for process in ranks:
            kill_group(process)


def join(ranks: list[Any], log: Path) -> None:
    for process in ranks:
        process.join(LIMIT_S)
    assert [process.exitcode for process in ranks] == [0, 0], log.read_text()


def train_at_pace(args: list[str], run: Path, log: Path) -> Pace:
    """Trains without a kill and takes the time."""
    with two_ranks(args, log) as ranks:
        wait_until(log.exists, "no process starts", LIMIT_S)
        began = time.monotonic()
        wait_for_rows(run, 1, ranks[0].is_alive)
        first = time.monotonic()
        join(ranks, log)
    return Pace(first - began, (time.monotonic() - first) / len(rows(run)))


def draw_kills(rng: random.Random, count: int, pace: Pace) -> list[dict[int, dict[str, Any]]]:
    """When which ranks are killed: rank 0, rank 1, both in turn; a third of them at the start."""
    plans = []
    for number in range(count):
        ranks = [(0,), (1,), (0, 1)][number % 3]
        if number % 3 == number // 3 % 3:
            moment, delay = ("start", 0), rng.uniform(0, pace.start_s)
        else:
            moment, delay = ("batch", rng.randrange(REACH)), rng.uniform(0, 2 * pace.step_s)
        plans.append({rank: {"killed_at": moment, "delay_s": delay} for rank in ranks})
    return plans


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kills", "epochs", "workers"), KILLS)
def test_killed_again_and_again(
    kills: int, epochs: int, workers: int, data: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    reference = tmp_path / "reference" / "run"
    pace = train_at_pace(arguments(data, reference, epochs, workers), reference, log)
    whole = store_content(next((reference.parent / "store").iterdir()))
    run = tmp_path / "killed" / "run"
    store = run.parent / "store"
    args = arguments(data, run, epochs, workers)
    rng = random.Random(0)
    for plan in draw_kills(rng, kills, pace):
        with two_ranks(args, log, plan) as ranks:
            assert wait([process.sentinel for process in ranks], LIMIT_S), "nothing was killed"
            left_alone = rng.random() < 0.5 and plan[min(plan)]["killed_at"][0] == "batch"
            ranks[1 - min(plan)].join(LIMIT_S if left_alone else rng.uniform(0, SURVIVES_S))
            if left_alone and len(plan) == 1:
                assert ranks[1 - min(plan)].exitcode == 1, log.read_text()
        codes = [process.exitcode for process in ranks]
        print(plan, codes)
        # of two, one may have lost the other before it was killed itself
        assert -9 in [codes[rank] for rank in plan], log.read_text()
        assert 0 not in codes, log.read_text()
        assert_run_is_whole(run)
        for folder in store.glob("*"):
            assert store_content(folder).items() <= whole.items()
    with two_ranks(args, log) as ranks:
        join(ranks, log)
    assert_same_end(run, reference, epochs * BATCHES)
    assert_run_is_whole(run)
    assert store_content(next(store.iterdir())) == whole
    assert leftovers(run.parent) == []
    starts = wandb_files.starts(run)
    assert set().union(*(wandb_files.run_ids(file) for file in starts)) == {
        (run / "wandb_id").read_text()
    }
