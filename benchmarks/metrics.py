"""Time and memory of DSC, NSD and HD95 of twelve organs, against surface-distance on full volumes.

    python benchmarks/metrics.py [--depth 200] [--side 512] [--repeats 3] [--json OUT]

The plain way compares each label's masks on the full volume: surface-distance's distances, NSD and
HD95, and its DSC in numpy. Both ways run in turn, on one thread, and must give the same numbers
(asserted). Organs are ellipsoids of real sizes with uneven outlines. Predictions have outlines of
their own (``close``; every fourth organ lacks a quarter of its slices), lie elsewhere (``far``: 10
slices and 30 pixels away) or are the truth (``same``). Slices are scored one by one in 2D. The
floor is one pass over the bytes of both label volumes.
"""

import argparse
import json
import platform
import statistics
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import surface_distance
from numpy.typing import NDArray

from medsam2_ft.metrics import score_labels, score_masks

Labels = NDArray[np.uint8]
Scores = list[tuple[float, float, float]]
SPACING_MM = (2.5, 0.8, 0.8)
TOLERANCE_MM = 2.0
# Centre as a share of the volume and half axes in mm, both (z, y, x).
ORGANS = {
    "liver": ((0.60, 0.45, 0.35), (75, 75, 90)),
    "spleen": ((0.62, 0.55, 0.72), (50, 35, 25)),
    "right kidney": ((0.48, 0.62, 0.36), (55, 28, 30)),
    "left kidney": ((0.49, 0.62, 0.66), (55, 28, 30)),
    "stomach": ((0.62, 0.40, 0.62), (45, 45, 55)),
    "pancreas": ((0.54, 0.48, 0.53), (16, 14, 65)),
    "gallbladder": ((0.55, 0.40, 0.40), (35, 15, 18)),
    "aorta": ((0.55, 0.58, 0.53), (170, 11, 11)),
    "vena cava": ((0.53, 0.56, 0.45), (130, 13, 13)),
    "oesophagus": ((0.82, 0.57, 0.51), (90, 9, 9)),
    "duodenum": ((0.50, 0.50, 0.44), (40, 14, 35)),
    "bladder": ((0.15, 0.45, 0.50), (35, 38, 45)),
}


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], mm: float) -> NDArray[Any]:
    """Smooth random field with a standard deviation of about ``mm``."""
    from scipy.ndimage import gaussian_filter, zoom

    coarse = [max(4, round(n * s / 8) + 1) for n, s in zip(shape, SPACING_MM, strict=True)]
    field = gaussian_filter(rng.standard_normal(coarse), 1.0)
    factors = [n / c for n, c in zip(shape, coarse, strict=True)]
    return np.asarray(mm * zoom(field / field.std(), factors, order=1))


def organs(shape: tuple[int, int, int]) -> tuple[Labels, Labels]:
    """Prediction and truth; sizes shrink with the volume."""
    rng = np.random.default_rng(0)
    pred, truth = np.zeros((2, *shape), np.uint8)
    scale = np.array(shape) / (200, 512, 512)
    for label, (share, half_axes_mm) in enumerate(ORGANS.values(), start=1):
        centre, radii = np.array(share) * shape, np.array(half_axes_mm) / SPACING_MM * scale
        low = np.maximum(centre - 1.35 * radii, 0).astype(int)
        high = np.minimum(centre + 1.35 * radii + 1, shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.ogrid[box]
        radius = np.sqrt(
            sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True))
        )
        outline_mm = (radius - 1) * min(half_axes_mm)
        outline_mm += smooth_noise(rng, radius.shape, 2.5 if min(half_axes_mm) > 12 else 1.0)
        truth[box][outline_mm < 0] = label
        found = outline_mm + smooth_noise(rng, radius.shape, 1.5) < 0
        if label % 4 == 0:
            found[: len(found) // 4] = False
        pred[box][found] = label
    return pred, truth


def ours(pred: Labels, truth: Labels) -> Scores:
    """With this package."""
    scores = score_labels(pred, truth, SPACING_MM, (TOLERANCE_MM,))
    return [(score.dsc, score.nsd[0], score.hd95_mm) for score in scores.values()]


def plain(pred: Labels, truth: Labels) -> Scores:
    """With surface-distance, label by label."""
    labels = range(1, len(ORGANS) + 1)
    return [reference(pred == label, truth == label, SPACING_MM) for label in labels]


def reference(
    pred: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> tuple[float, float, float]:
    """DSC, NSD and HD95 by surface-distance, in 2D or 3D."""
    distances = surface_distance.compute_surface_distances(truth, pred, spacing_mm)
    nsd = surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM)
    hd95_mm = surface_distance.compute_robust_hausdorff(distances, 95)
    return surface_distance.compute_dice_coefficient(truth, pred), nsd, hd95_mm


def slices_ours(pred: Labels, truth: Labels) -> Scores:
    """Slice by slice in 2D with this package."""
    result = []
    for z in range(len(pred)):
        masks = pred[z : z + 1] == 1, truth[z : z + 1] == 1
        score = score_masks(*masks, SPACING_MM, (TOLERANCE_MM,))
        result.append((score.dsc, score.nsd[0], score.hd95_mm))
    return result


def slices_plain(pred: Labels, truth: Labels) -> Scores:
    """Slice by slice in 2D with surface-distance."""
    return [reference(p == 1, t == 1, SPACING_MM[1:]) for p, t in zip(pred, truth, strict=True)]


def peak_mb(function: Callable[..., Any], *args: Any) -> float:
    """Largest size in MB of what a call allocates in numpy and Python, beside its arguments."""
    tracemalloc.start()
    function(*args)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


def compare(
    name: str,
    ways: tuple[Callable[[Labels, Labels], Scores], Callable[[Labels, Labels], Scores]],
    pred: Labels,
    truth: Labels,
    repeats: int,
) -> dict[str, Any]:
    """Medians of ours and the plain way, which take turns; raises if their scores differ."""
    seconds: list[list[float]] = [[], []]
    cpu_seconds: list[list[float]] = [[], []]
    for _ in range(repeats):
        scores = []
        for way, function in enumerate(ways):
            start_s, start_cpu_s = time.perf_counter(), time.process_time()
            scores.append(function(pred, truth))
            seconds[way].append(time.perf_counter() - start_s)
            cpu_seconds[way].append(time.process_time() - start_cpu_s)
        np.testing.assert_allclose(*scores, rtol=1e-9)
    (our_s, plain_s), (our_cpu_s, plain_cpu_s) = (
        [statistics.median(values) for values in both] for both in (seconds, cpu_seconds)
    )
    our_mb, plain_mb = (peak_mb(function, pred, truth) for function in ways)
    print(
        f"{name:7} {our_s:7.3f} s ({our_cpu_s:7.3f} s CPU) against {plain_s:7.3f} s "
        f"({plain_cpu_s:7.3f} s CPU): {plain_s / our_s:5.1f} times faster "
        f"({plain_cpu_s / our_cpu_s:5.1f} in CPU time); {our_mb:4.0f} MB against "
        f"{plain_mb:4.0f} MB; mean DSC {np.mean([score[0] for score in scores[0]]):.3f}"
    )
    return {
        "seconds": {"ours": our_s, "plain": plain_s},
        "cpu_seconds": {"ours": our_cpu_s, "plain": plain_cpu_s},
        "ratio": plain_s / our_s,
        "cpu_ratio": plain_cpu_s / our_cpu_s,
        "peak_mb": {"ours": our_mb, "plain": plain_mb},
    }


def floor_seconds(pred: Labels, truth: Labels) -> float:
    """Median seconds to read every byte of both volumes once."""
    seconds = []
    for _ in range(5):
        start_s = time.perf_counter()
        np.bitwise_or.reduce(pred, axis=None)
        np.bitwise_or.reduce(truth, axis=None)
        seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds)


def main() -> None:
    """Prints seconds, memory and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=200)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    pred, truth = organs((args.depth, args.side, args.side))
    score_labels(pred[:, ::8, ::8], truth[:, ::8, ::8], SPACING_MM)  # imports and tables
    floor_s = floor_seconds(pred, truth)
    print(f"{len(ORGANS)} organs in {truth.shape}; floor {floor_s:.4f} s, {2 * truth.nbytes} bytes")
    shifted = np.roll(truth, (10, 30, 0), axis=(0, 1, 2))
    volumes = {"close": pred, "far": shifted, "same": truth}
    results = {
        name: compare(name, (ours, plain), labels, truth, args.repeats)
        for name, labels in volumes.items()
    }
    both = np.flatnonzero((pred == 1).any(axis=(1, 2)) & (truth == 1).any(axis=(1, 2)))
    ways = slices_ours, slices_plain
    results["slices"] = compare("slices", ways, pred[both], truth[both], args.repeats)
    per_slice_ms = 1000 * results["slices"]["cpu_seconds"]["ours"] / len(both)
    print(f"{per_slice_ms:.2f} ms of CPU time a slice, {len(both)} slices")
    if args.json is not None:
        facts = {"machine": platform.processor() or platform.machine(), "numpy": np.__version__}
        sizes = {"shape_zyx": truth.shape, "organs": len(ORGANS), "threads": 1}
        floor = {"floor_seconds": floor_s, "floor_bytes": 2 * truth.nbytes}
        args.json.write_text(json.dumps(sizes | facts | floor | results, indent=2) + "\n")


if __name__ == "__main__":
    main()
