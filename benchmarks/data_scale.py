"""Start-up of the data path, and the memory of a worker as the number of cases grows.

    python benchmarks/data_scale.py first-batch DATA SIZE BATCH WORKERS
    python benchmarks/data_scale.py worker-memory DATA SIZE BATCHES

Each is one line of JSON from a fresh process; ``data_path.py`` calls both. Linux (/proc).
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

START_UPS = 3


def generate_cases(folder: Path, cases: int, depth: int, side: int) -> Path:
    """Writes small volumes that differ from each other; every slice has two objects."""
    folder.mkdir(parents=True)
    for number in range(cases):
        rng = np.random.default_rng(number)
        image = rng.integers(60, 100, (depth, side, side)).astype(np.uint8)
        labels = np.zeros((depth, side, side), np.uint8)
        for label in (1, 2):
            y, x = rng.integers(0, side - side // 8, 2)
            labels[:, y : y + side // 8, x : x + side // 8] = label
        np.savez_compressed(folder / f"CT_{number:04}.npz", imgs=image, gts=labels)
    return folder


def build_store(data: Path) -> None:
    """Builds the store of a folder of cases, as training does before its first step."""
    from medsam2_ft.data.datamodule import SliceDataModule

    SliceDataModule(str(data), image_size=64, batch_size=1).prepare_data()


def first_batch(data: Path, size: int, batch: int, workers: int) -> dict[str, Any]:
    """Seconds from the data module's constructor to the first batch; imports count apart.

    The store is there already.
    """
    start_s = time.perf_counter()
    from medsam2_ft.data.augment import Augmenter
    from medsam2_ft.data.datamodule import AugmentConfig, SliceDataModule

    Augmenter(AugmentConfig())  # imports albumentations, as each worker would
    imports_s = time.perf_counter() - start_s
    first_batch_s = []
    for _ in range(START_UPS):
        start_s = time.perf_counter()
        module = SliceDataModule(str(data), image_size=size, batch_size=batch, num_workers=workers)
        module.prepare_data()
        module.setup("fit")
        next(iter(module.train_dataloader()))
        first_batch_s.append(time.perf_counter() - start_s)
    return {"imports_s": imports_s, "first_batch_s": first_batch_s}


def worker_memory(data: Path, size: int, batches: int) -> dict[str, float]:
    """Memory of one worker after some batches: all that is resident, and what it has to itself.

    The store is there already: what building leaves behind would count as the worker's.
    """
    from medsam2_ft.data.datamodule import SliceDataModule

    module = SliceDataModule(str(data), image_size=size, batch_size=4, num_workers=1, val_share=0.0)
    module.prepare_data()
    module.setup("fit")
    loader = module.train_dataloader()
    seen = 0
    while seen < batches:  # as many epochs as it takes; the worker stays
        for _ in loader:
            seen += 1
            if seen == batches:
                break
    (worker,) = loader._iterator._workers  # torch has no public way to its workers
    memory = psutil.Process(worker.pid).memory_full_info()
    return {"resident_mb": memory.rss / 1e6, "own_mb": memory.uss / 1e6}


def main() -> None:
    """Prints the JSON of the measurement that the command line names."""
    what, data, *numbers = sys.argv[1:]
    measure = {"first-batch": first_batch, "worker-memory": worker_memory}[what]
    print(json.dumps(measure(Path(data), *map(int, numbers))))


if __name__ == "__main__":
    main()
