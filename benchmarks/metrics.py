"""Time of DSC, NSD and HD95 of many organs in one volume, against surface-distance's own code.

    python benchmarks/metrics.py [--depth 200] [--side 512] [--organs 12]

Both compute the same numbers (asserted). surface-distance crops too; what is saved are its sorting
in Python and the distances of voxels that are on no surface.
"""

import argparse
import json
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import surface_distance
from numpy.typing import NDArray

from medsam2_ft.metrics import dice, hausdorff_95, normalized_surface_dice, surface_distances

SPACING_MM = (2.5, 0.8, 0.8)
TOLERANCE_MM = 2.0


def organs(depth: int, side: int, count: int) -> NDArray[np.uint8]:
    """Ellipsoids with rough surfaces, one label each, that overlap here and there."""
    rng = np.random.default_rng(0)
    labels = np.zeros((depth, side, side), np.uint8)
    for label in range(1, count + 1):
        radii = rng.uniform(0.06, 0.17, size=3) * labels.shape
        centre = rng.uniform(0.25, 0.75, size=3) * labels.shape
        low = np.maximum(centre - radii, 0).astype(int)
        high = np.minimum(centre + radii + 1, labels.shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.ogrid[box]
        distance = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True))
        labels[box][distance + rng.normal(0, 0.02, distance.shape) < 1] = label
    return labels


def ours(pred: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[float, float, float]:
    """DSC, NSD and HD95 with this package."""
    distances = surface_distances(pred, truth, SPACING_MM)
    nsd = normalized_surface_dice(distances, TOLERANCE_MM)
    return dice(pred, truth), nsd, hausdorff_95(distances)


def theirs(pred: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[float, float, float]:
    """The same with surface-distance."""
    distances = surface_distance.compute_surface_distances(truth, pred, SPACING_MM)
    nsd = surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM)
    hd95_mm = surface_distance.compute_robust_hausdorff(distances, 95)
    return surface_distance.compute_dice_coefficient(truth, pred), nsd, hd95_mm


def main() -> None:
    """Prints seconds of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=200)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--organs", type=int, default=12)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    truth = organs(args.depth, args.side, args.organs)
    pred = np.roll(truth, (1, 3, -2), axis=(0, 1, 2))
    warnings.simplefilter("ignore", DeprecationWarning)
    seconds, results = {}, {}
    for name, function in (("medsam2-ft", ours), ("surface-distance", theirs)):
        seconds[name], results[name] = 0.0, []
        for label in range(1, args.organs + 1):
            masks = pred == label, truth == label
            start_s = time.perf_counter()
            results[name].append(function(*masks))
            seconds[name] += time.perf_counter() - start_s
        print(f"{name:17} {seconds[name]:7.2f} s for {args.organs} organs in {truth.shape}")
    np.testing.assert_allclose(results["medsam2-ft"], results["surface-distance"], rtol=1e-12)
    ratio = seconds["surface-distance"] / seconds["medsam2-ft"]
    print(f"same numbers, {ratio:.1f} times faster")
    if args.json is not None:
        sizes = {"shape_zyx": truth.shape, "organs": args.organs, "threads": 1}
        facts = {"machine": platform.processor() or platform.machine(), "numpy": np.__version__}
        numbers = {"seconds": seconds, "ratio": ratio}
        args.json.write_text(json.dumps(sizes | facts | numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
