"""Samples per second of one data worker, and disk use, against one npy file per slice.

    python benchmarks/data_path.py [--data FOLDER] [--sizes 1024 512] [--seconds 5] [--json OUT]

The baseline is the usual recipe: each labelled slice is expanded to npy files at its stored size;
the worker loads one, picks one object, makes three float channels, resizes them and the mask to the
input size, scales to 0-1 and flips. Ours reads the slice store and delivers up to eight objects.
Without ``--data`` two CT-like volumes are generated. Everything runs in one process on one thread.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import blosc2
import cv2
import numpy as np

from medsam2_ft.data.augment import AugmentConfig
from medsam2_ft.data.dataset import SliceDataset, TrainingVariation
from medsam2_ft.data.index import SliceIndex
from medsam2_ft.data.sampler import SampleKey
from medsam2_ft.data.store import update_store
from medsam2_ft.io.npz import find_cases, read_case

ORGANS = 6
MAX_OBJECTS = 8


def generate(folder: Path, volumes: int = 2, depth: int = 40, side: int = 512) -> None:
    """Writes volumes with smooth organs, noise inside the body and air around it."""
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    for number in range(volumes):
        rng = np.random.default_rng(number)
        body = rows**2 / 0.16 + columns**2 / 0.2 < 1
        labels = np.zeros((depth, side, side), np.uint8)
        for label in range(1, ORGANS + 1):
            centre, radius = rng.uniform(-0.25, 0.25, 2), rng.uniform(0.04, 0.1)
            labels[:, np.hypot(rows - centre[0], columns - centre[1]) < radius] = label
        noise = rng.normal(0, 6, labels.shape)
        image = np.where(body, 90 + 20.0 * labels + noise, 0)
        path = folder / f"CT_{number}.npz"
        np.savez_compressed(path, imgs=image.clip(0, 255).astype(np.uint8), gts=labels)


def folder_mib(folder: Path) -> float:
    """Size of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def expand(cases: list[Path], folder: Path) -> list[Path]:
    """Writes an image and a label npy for each labelled slice; returns the image files."""
    files = []
    for path in cases:
        case = read_case(path)
        for z in np.flatnonzero(case.label_maps[0].any(axis=(1, 2))):
            file = folder / f"{path.stem}-{z:04}.npy"
            np.save(file, case.image[z])
            np.save(folder / f"{path.stem}-{z:04}.labels.npy", case.label_maps[0][z])
            files.append(file)
    return files


def load_npy(file: Path, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The baseline's sample."""
    image = np.load(file).astype(np.float32)
    labels = np.load(file.with_suffix(".labels.npy"))
    mask = (labels == rng.choice(np.unique(labels[labels > 0]))).astype(np.uint8)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
    image = (image - image.min()) / max(image.max() - image.min(), 1e-8)
    if rng.random() < 0.5:
        image, mask = np.flip(image, 1), np.flip(mask, 1)
    return np.ascontiguousarray(image.transpose(2, 0, 1)), np.ascontiguousarray(mask)


def rate(make: Callable[[Any], Any], items: list[Any], seconds: float) -> float:
    """Calls ``make`` on shuffled items for some seconds; returns calls per second."""
    order = [items[i] for i in np.random.default_rng(0).permutation(len(items))]
    make(order[0])
    start_s, count = time.perf_counter(), 0
    for item in cycle(order):
        make(item)
        count += 1
        if time.perf_counter() - start_s > seconds:
            break
    return count / (time.perf_counter() - start_s)


def dataset(index: SliceIndex, size: int, augmentation: AugmentConfig | None) -> SliceDataset:
    """Our training data set, with jitter and negatives."""
    variation = TrainingVariation(
        seed=0,
        box_jitter_px=20.0,
        jitter_inward=False,
        negative_probability=0.1,
        augmentation=augmentation,
    )
    return SliceDataset(index, image_size=size, max_objects=MAX_OBJECTS, variation=variation)


def measure(cases: list[Path], work: Path, sizes: list[int], seconds: float) -> dict[str, Any]:
    """Returns disk use in MiB, build time in s and rates in samples/s."""
    root, plain = work / "store", work / "npy"
    root.mkdir()
    plain.mkdir()
    start_s = time.perf_counter()
    index = SliceIndex.create(root, update_store(root, cases, workers=1, quiet=True))
    store_s = time.perf_counter() - start_s
    start_s = time.perf_counter()
    files = expand(cases, plain)
    npy_s = time.perf_counter() - start_s
    labels = index.labels_per_slice()
    keys = [SampleKey(0, int(i)) for i in np.flatnonzero(labels > 0)]
    rates = {}
    for size in sizes:
        rng = np.random.default_rng(0)
        rates[str(size)] = {
            "npy": rate(lambda file, s=size, r=rng: load_npy(file, s, r), files, seconds),
            "store": rate(dataset(index, size, None).__getitem__, keys, seconds),
            "store_augmented": rate(
                dataset(index, size, AugmentConfig()).__getitem__, keys, seconds
            ),
        }
    return {
        "slices": len(keys),
        "objects_per_slice": float(labels[labels > 0].mean()),
        "disk_mib": {
            "npz": sum(case.stat().st_size for case in cases) / 2**20,
            "store": folder_mib(root),
            "npy": folder_mib(plain),
        },
        "build_s": {"store": store_s, "npy": npy_s},
        "samples_per_s": rates,
    }


def report(result: dict[str, Any]) -> None:
    """Prints the table."""
    disk, build = result["disk_mib"], result["build_s"]
    print(f"{result['slices']} slices, {result['objects_per_slice']:.1f} objects each")
    print(f"{'':22}{'npy':>10}{'store':>10}")
    print(f"{'disk (MiB)':22}{disk['npy']:10.1f}{disk['store']:10.1f}   (npz: {disk['npz']:.1f})")
    print(f"{'build (s)':22}{build['npy']:10.1f}{build['store']:10.1f}")
    for size, rates in result["samples_per_s"].items():
        print(f"{f'samples/s at {size}':22}{rates['npy']:10.1f}{rates['store']:10.1f}", end="")
        print(f"   (augmented: {rates['store_augmented']:.1f})")
        objects = rates["store"] * min(result["objects_per_slice"], MAX_OBJECTS)
        print(f"{f'objects/s at {size}':22}{rates['npy']:10.1f}{objects:10.1f}")


def main() -> None:
    """Measures, prints and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of labelled npz cases")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 512, 256])
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    cv2.setNumThreads(0)
    blosc2.set_nthreads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or Path(folder) / "data"
        if args.data is None:
            data.mkdir()
            generate(data)
        result = measure(find_cases(data), Path(folder), args.sizes, args.seconds)
    report(result)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
