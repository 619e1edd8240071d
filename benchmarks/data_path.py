"""The data path against one npy file per slice: samples per second of a worker, disk, start-up.

    python benchmarks/data_path.py [--data FOLDER] [--sizes 1024 512] [--seconds 5] [--json OUT]

The baseline is the usual recipe: each labelled slice is expanded to npy files at its stored size as
uint8 (an expansion to 1024 float would be twelve times the bytes to store and to read); the worker
loads one, picks one object, makes three float channels, resizes them and the mask to the input
size, scales to 0-1 and flips. Ours reads the slice store and delivers up to eight objects. Both
rates are of one process on one thread, measured in turns. The floor is what cannot be left out:
unpack image and labels, resize the image. Without ``--data`` two CT-like volumes are generated.
Start-up and the memory of a worker are measured on generated cases (``data_scale.py``).
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import blosc2
import cv2
import numpy as np
from data_scale import generate_cases
from report import fresh_process, write_result

from medsam2_ft.data.augment import AugmentConfig
from medsam2_ft.data.dataset import SliceDataset, TrainingVariation
from medsam2_ft.data.index import SliceIndex
from medsam2_ft.data.sampler import SampleKey
from medsam2_ft.data.store import update_store
from medsam2_ft.data.targets import resize
from medsam2_ft.io.npz import find_cases, read_case

ORGANS = 6
MAX_OBJECTS = 8
TURNS = 5
SCALE_SCRIPT = Path(__file__).with_name("data_scale.py")


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


def read_and_resize(index: SliceIndex, size: int, key: SampleKey) -> np.ndarray:
    """The floor: what every way of making a sample from the store has to do."""
    case, z = (int(value) for value in index.slices[key.slice_id])
    folder = str(index.case_folders[case])
    index.reader.labels(folder, 0, z)
    return resize(index.reader.image(folder, z), size)


def rates(
    index: SliceIndex, files: list[Path], size: int, seconds: float
) -> dict[str, list[float]]:
    """Samples per second of every way at one input size; one number per turn."""
    labelled = np.flatnonzero(index.labels_per_slice() > 0)
    keys = [SampleKey(0, int(i)) for i in labelled]
    rng = np.random.default_rng(0)
    ways: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "npy": (lambda file: load_npy(file, size, rng), files),
        "store": (dataset(index, size, None).__getitem__, keys),
        "store_augmented": (dataset(index, size, AugmentConfig()).__getitem__, keys),
        "floor": (lambda key: read_and_resize(index, size, key), keys),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, (make, items) in ways.items():
            found[name].append(rate(make, items, seconds / TURNS))
    return found


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
    return {
        "slices": len(files),
        "objects_per_slice": float(labels[labels > 0].mean()),
        "disk_mib": {
            "npz": sum(case.stat().st_size for case in cases) / 2**20,
            "store": folder_mib(root),
            "npy": folder_mib(plain),
        },
        "build_s": {"store": store_s, "npy": npy_s},
        "samples_per_s": {str(size): rates(index, files, size, seconds) for size in sizes},
    }


def measure_scale(work: Path, counts: list[int], size: int, batches: int) -> dict[str, Any]:
    """Returns the time to the first batch, and a worker's memory for each number of cases."""
    script = [sys.executable, str(SCALE_SCRIPT)]
    volumes = generate_cases(work / "start", 50, 20, size // 2)
    start_up = [
        fresh_process([*script, "first-batch", str(volumes), str(size), "8", "2"]) for _ in range(3)
    ]
    memory = {}
    for count in counts:
        folder = generate_cases(work / f"cases-{count}", count, 8, size // 8)
        command = [*script, "worker-memory", str(folder), str(size // 4), str(batches)]
        fresh_process([*command[:-1], "1"])  # builds the store
        memory[str(count)] = fresh_process(command)
    return {"start_up": start_up, "worker_memory": memory}


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns one row per comparison: name, both values, their ratio and the unit."""
    table = [
        row("disk", result["disk_mib"]["store"], result["disk_mib"]["npy"], "MiB"),
        row("build", result["build_s"]["store"], result["build_s"]["npy"], "s"),
    ]
    for size, found in result["samples_per_s"].items():
        median = {name: statistics.median(values) for name, values in found.items()}
        for way in ("store", "store_augmented"):
            line = row(f"{way} at {size}", median[way], median["npy"], "samples/s")
            table.append(line | {"share_of_floor": median[way] / median["floor"]})
    start_s = statistics.median(run["first_batch_s"] for run in result["start_up"])
    table.append({"name": "first batch of 50 volumes", "ours": start_s, "unit": "s"})
    memory = result["worker_memory"]
    fewest, most = min(memory, key=int), max(memory, key=int)
    for kind in ("resident_mb", "own_mb"):
        name = f"worker memory, {kind.removesuffix('_mb')}, {most} cases against {fewest}"
        table.append(row(name, memory[most][kind], memory[fewest][kind], "MB"))
    return table


def row(name: str, ours: float, baseline: float, unit: str) -> dict[str, Any]:
    """One comparison."""
    return {
        "name": name,
        "ours": ours,
        "baseline": baseline,
        "ratio": ours / baseline,
        "unit": unit,
    }


def report(result: dict[str, Any]) -> None:
    """Prints the table."""
    objects = min(result["objects_per_slice"], MAX_OBJECTS)
    print(f"{result['slices']} slices; a sample of the store has {objects:.1f} objects, of npy 1")
    print(f"{'':52}{'ours':>10}{'baseline':>10}{'ratio':>8}{'floor':>8}")
    for line in result["rows"]:
        text = f"{line['name'] + ' (' + line['unit'] + ')':52}{line['ours']:10.1f}"
        if "baseline" in line:
            text += f"{line['baseline']:10.1f}{line['ratio']:8.2f}"
        if "share_of_floor" in line:
            text += f"{line['share_of_floor']:8.0%}"
        print(text)


def main() -> None:
    """Measures, prints and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of labelled npz cases")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 512, 256])
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--cases", type=int, nargs="+", default=[5, 50, 500], help="for memory")
    parser.add_argument("--batches", type=int, default=200, help="before memory is read")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    cv2.setNumThreads(0)
    blosc2.set_nthreads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = args.data or work / "data"
        if args.data is None:
            data.mkdir()
            generate(data)
        result = measure(find_cases(data), work, args.sizes, args.seconds)
        result |= measure_scale(work, args.cases, args.sizes[0], args.batches)
    result["rows"] = rows(result)
    report(result)
    write_result(args.json, result)


if __name__ == "__main__":
    main()
