"""Rates and memory against a clock that the test moves."""

import csv
import itertools
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from tiny_run import slice_batch
from torch.utils.data import DataLoader

from medsam2_ft.callbacks import throughput
from medsam2_ft.callbacks.throughput import Throughput, peak_memory_bytes
from medsam2_ft.data.batch import SliceBatch
from medsam2_ft.run_log import MetricsCsv

GIB = 2**30


class Clock:
    """Takes the place of `time.perf_counter`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(throughput.time, "perf_counter", lambda: self.now_s)


class Work(LightningModule):
    """Takes as many seconds as it is told: for each batch, and for each validation."""

    def __init__(self, clock: Clock, batch_s: list[float], validation_s: float = 500.0) -> None:
        super().__init__()
        self.clock = clock
        self.batch_s = itertools.chain(batch_s, itertools.repeat(1.0))
        self.validation_s = validation_s
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: SliceBatch, batch_idx: int) -> torch.Tensor:
        self.clock.now_s += next(self.batch_s)
        self.log("train/loss", self.weight.detach())
        return self.weight * 1.0

    def validation_step(self, batch: SliceBatch, batch_idx: int) -> None:
        self.clock.now_s += self.validation_s

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SlowSave(Callback):
    """Work of another callback behind the batch: part of a step's time."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.now_s += self.seconds


class SlowData:
    """Batches of 2 images with 2 objects; takes its time before each of them."""

    def __init__(self, clock: Clock, count: int, load_s: float) -> None:
        self.clock, self.count, self.load_s = clock, count, load_s

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> SliceBatch:
        if index >= self.count:
            raise IndexError
        self.clock.now_s += self.load_s
        return slice_batch(index)


def fit(
    run: Path, module: Work, data: SlowData, extra: tuple[Callback, ...] = (), **options: Any
) -> Trainer:
    """Trains, and logs to ``run``."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "log_every_n_steps": 2,
        "limit_val_batches": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    ckpt_path = options.pop("ckpt_path", None)
    trainer = Trainer(
        default_root_dir=run,
        logger=MetricsCsv(str(run)),
        callbacks=[Throughput(), *extra],
        **{**defaults, **options},
    )
    loader = DataLoader(data, batch_size=None)  # type: ignore[arg-type]
    validation = DataLoader([slice_batch(0)], batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader, validation, ckpt_path=ckpt_path)
    return trainer


def speeds(run: Path) -> dict[int, tuple[float, float]]:
    """The steps with speeds as ``{step: (images/s, objects/s)}``."""
    with (run / "metrics.csv").open(newline="") as file:
        return {
            int(row["step"]): (float(row["speed/images_per_s"]), float(row["speed/objects_per_s"]))
            for row in csv.DictReader(file)
            if row.get("speed/images_per_s")
        }


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_rates_count_loading_and_callbacks_but_not_the_first_batch(
    clock: Clock, tmp_path: Path
) -> None:
    module = Work(clock, [100.0, 3.0, 2.0, 2.0])
    fit(tmp_path, module, SlowData(clock, 4, load_s=0.5), (SlowSave(clock, 0.5),))
    measured = speeds(tmp_path)
    # step 1: the second batch alone, 2 images in 0.5 saving + 0.5 loading + 3 s
    assert measured[1] == pytest.approx((0.5, 0.5))
    # step 3: 4 images in 2 x (0.5 + 0.5 + 2) s
    assert measured[3] == pytest.approx((4 / 6, 4 / 6))
    assert sorted(measured) == [1, 3]


def test_objects_are_counted_apart_from_images(clock: Clock, tmp_path: Path) -> None:
    class Crowded(SlowData):
        def __getitem__(self, index: int) -> SliceBatch:
            batch = super().__getitem__(index)
            repeated = [i for i in range(len(batch.boxes)) for _ in range(3)]
            return SliceBatch(
                images=batch.images,
                masks=batch.masks[repeated],
                boxes=batch.boxes[repeated],
                image_index=batch.image_index[repeated],
                modality=batch.modality,
            )

    fit(tmp_path, Work(clock, [9.0, 4.0]), Crowded(clock, 2, load_s=0.0))
    assert speeds(tmp_path) == {1: pytest.approx((0.5, 1.5))}


def test_every_logged_step_has_a_rate_when_gradients_are_accumulated(
    clock: Clock, tmp_path: Path
) -> None:
    """Twelve batches are four steps; every second step is logged and covers six batches."""
    module = Work(clock, [50.0] + [2.0] * 11)
    fit(tmp_path, module, SlowData(clock, 12, load_s=0.0), accumulate_grad_batches=3)
    assert speeds(tmp_path) == {1: pytest.approx((1.0, 1.0)), 3: pytest.approx((1.0, 1.0))}


def test_short_epochs_and_validations_do_not_hide_or_slow_the_rate(
    clock: Clock, tmp_path: Path
) -> None:
    """Logging counts steps over epochs: with 3 batches each it falls in the middle of them."""
    fit(
        tmp_path,
        Work(clock, [50.0]),
        SlowData(clock, 3, load_s=0.0),
        max_epochs=4,
        log_every_n_steps=5,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        val_check_interval=2,  # one within each epoch
    )
    assert speeds(tmp_path) == {4: pytest.approx((2.0, 2.0)), 9: pytest.approx((2.0, 2.0))}


def test_epochs_of_one_batch_have_a_rate(clock: Clock, tmp_path: Path) -> None:
    data = SlowData(clock, 1, load_s=0.0)
    fit(tmp_path, Work(clock, [50.0, 4.0, 4.0]), data, max_epochs=3, log_every_n_steps=3)
    assert speeds(tmp_path) == {2: pytest.approx((0.5, 0.5))}


def test_a_resumed_run_starts_afresh(clock: Clock, tmp_path: Path) -> None:
    data = SlowData(clock, 4, load_s=0.0)
    trainer = fit(tmp_path / "a", Work(clock, []), data)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    clock.now_s += 10_000
    resumed = Work(clock, [70.0, 8.0, 4.0, 4.0])
    fit(tmp_path / "b", resumed, data, max_epochs=2, ckpt_path=tmp_path / "half.ckpt")
    # the first batch after the start is left out again, step numbers go on
    assert speeds(tmp_path / "b") == {5: pytest.approx((0.25,) * 2), 7: pytest.approx((0.5,) * 2)}


class Recorder(LightningModule):
    """Stands in for the module of one rank of several."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: dict[str, tuple[float, dict[str, Any]]] = {}

    def log(self, name: str, value: Any, **options: Any) -> None:
        self.logged[name] = (float(value), options)


def test_ranks_add_their_rates_and_report_the_largest_peak(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "peak_memory_bytes", lambda device: 3 * GIB // 2)
    callback, module = Throughput(), Recorder()
    trainer = Mock(spec=Trainer, global_step=0, log_every_n_steps=2)
    callback.on_train_start(trainer, module)
    for batch_idx in range(2):
        callback.on_train_batch_start(trainer, module, slice_batch(0), batch_idx)
        clock.now_s += 4.0
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, slice_batch(0), batch_idx)
    both = {"sync_dist": True, "reduce_fx": "sum"}
    assert module.logged == {
        "speed/images_per_s": (0.5, both),
        "speed/objects_per_s": (0.5, both),
        "memory/peak_gib": (1.5, {"sync_dist": True, "reduce_fx": "max"}),
    }


def test_peak_memory_of_this_process() -> None:
    before = peak_memory_bytes(torch.device("cpu"))
    block = torch.ones(before // 4 + 64 * 2**20)  # float32: as large again and a quarter GiB more
    after = peak_memory_bytes(torch.device("cpu"))
    assert after - before >= block.numel() * 4 * 0.5
    assert 10 * 2**20 < before < 64 * GIB


@pytest.mark.gpu
def test_peak_memory_of_a_gpu() -> None:
    device = torch.device("cuda", 0)
    torch.cuda.reset_peak_memory_stats(device)
    block = torch.ones(2**28, device=device)
    del block
    assert GIB <= peak_memory_bytes(device) < 1.5 * GIB
