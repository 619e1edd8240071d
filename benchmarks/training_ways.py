"""The two ways of training that benchmarks/training.py compares, on the same generated volume."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from inference_volume import volume
from lightning.pytorch import Callback, LightningModule, Trainer
from paper_recipe import NpySlices, PaperModel, PaperTraining, endless, expand
from torch.utils.data import DataLoader

from medsam2_ft.data.datamodule import SliceDataModule
from medsam2_ft.io.npz import find_cases
from medsam2_ft.module import FineTuner

Seconds = tuple[float, float]
"""Wall and CPU time."""
STORED_SIDE = 512
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
        size: Side of the input in pixels.
        objects: Labels of a slice that ours prompts at once, 1 to 12; the paper's way takes one.
        batch: Slices per step.
        variant: Of SAM2.
    """

    size: int
    objects: int
    batch: int = 1
    variant: str = "sam2.1_hiera_tiny"


def write_cases(folder: Path, depth: int, side: int = STORED_SIDE) -> None:
    """Writes one volume with twelve labels on every slice, as a training split."""
    frames, labels = volume(depth, side)
    (folder / "train").mkdir(parents=True)
    np.savez_compressed(folder / "train" / "CT_generated.npz", imgs=frames, gts=labels)


def paper_training(work: Work, folder: Path) -> PaperTraining:
    """The paper's way; writes its npy files on the first call."""
    files = sorted(f for f in (folder / "npy").glob("*.npy") if ".labels" not in f.name)
    files = files or expand(find_cases(folder / "train"), folder / "npy")
    torch.manual_seed(0)
    loader = DataLoader(NpySlices(files, work.size), batch_size=work.batch, shuffle=True)
    return PaperTraining(PaperModel(work.variant, work.size), endless(loader), CPU)


def our_training(
    work: Work, folder: Path, num_workers: int = 0, **options: Any
) -> tuple[FineTuner, SliceDataModule]:
    """Ours: the package's module with its default losses, and its data without augmentation."""
    torch.manual_seed(0)
    data = SliceDataModule(
        data_dir=str(folder),
        image_size=work.size,
        batch_size=work.batch,
        max_objects=work.objects,
        num_workers=num_workers,
        negative_share=0.0,
        augment=False,
    )
    module = FineTuner(
        variant=work.variant, weights="random", image_size=work.size, warmup_share=0.0, **options
    )
    return module, data


class TakeTurns(Callback):
    """After each step of ours, whatever else is to be measured; times both.

    Args:
        other: One step of the other way, which says how long it took; None for ours alone.
        warmup: Steps of both that do not count.

    Attributes:
        ours: Wall and CPU seconds of each step, loading and optimiser included.
        others: The same of the other way.
    """

    def __init__(self, other: Callable[[], Seconds] | None, warmup: int = 2) -> None:
        self.other = other
        self.warmup = warmup
        self.ours: list[Seconds] = []
        self.others: list[Seconds] = []
        self._began = (0.0, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock; the first batch is loaded after this."""
        self._began = _now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *rest: Any, **named: Any
    ) -> None:
        """Stops it, lets the other way take its turn, starts it again."""
        ended = _now()
        step = (ended[0] - self._began[0], ended[1] - self._began[1])
        counts = trainer.global_step > self.warmup
        if counts:
            self.ours.append(step)
        if self.other is not None:
            other = self.other()
            if counts:
                self.others.append(other)
        self._began = _now()


class PaperProcess:
    """The paper's way in a process of its own, which trains a step whenever it is asked to.

    What ours sets for its process stays with ours.
    """

    def __init__(self, work: Work, folder: Path) -> None:
        options = [str(work.size), str(work.batch), work.variant, str(folder)]
        command = [sys.executable, __file__, str(torch.get_num_threads()), *options]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Self:
        """The process runs already."""
        return self

    def __exit__(self, *error: object) -> None:
        """Ends it."""
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()

    def step(self) -> Seconds:
        """Trains one step and returns how long it took."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        wall_s, cpu_s = self.process.stdout.readline().split()
        return float(wall_s), float(cpu_s)


def serve_paper(threads: str, size: str, batch: str, variant: str, folder: str) -> None:
    """Trains a step for every line of the standard input."""
    torch.set_num_threads(int(threads))
    training = paper_training(Work(int(size), 1, int(batch), variant), Path(folder))
    for _ in sys.stdin:
        start = _now()
        training.step()
        stop = _now()
        print(stop[0] - start[0], stop[1] - start[1], flush=True)


def _now() -> Seconds:
    return time.perf_counter(), time.process_time()


def train_ours(
    module: FineTuner, data: SliceDataModule, steps: int, callback: Callback, **options: Any
) -> None:
    """Trains through Lightning, without logs and files."""
    trainer = Trainer(
        accelerator=options.pop("accelerator", "cpu"),
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        **options,
    )
    trainer.fit(module, datamodule=data)


if __name__ == "__main__":
    serve_paper(*sys.argv[1:])
