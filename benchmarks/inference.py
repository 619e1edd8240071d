"""Seconds and memory of box-to-box propagation, against encoding each slice again for every label.

    python benchmarks/inference.py [--plan 1024:4 512:8 256:40] [--weights FILE] [--json OUT]
        [--depth 40] [--side 512] [--threads 1] [--repeats 3]

A generated volume has 12 labels on every slice; each is prompted by its box on the middle slice.
The plain way is that of arXiv 2408.03322: label by label, slice by slice, Meta's image predictor
gets the slice and the box of the previous mask. Ours encodes each slice once for all labels. Both
use the same weights and the same rule for boxes, take turns, and their masks are compared.
``--plan SIZE:SLICES`` says on how many slices (around the middle) both ways run at which input
size. Ratios are of CPU time, which other work on the machine changes less than wall time.

The floor is the encoder's arithmetic at the speed of a large matrix product. Peak memory is that of
a fresh process for 40 and 400 slices (Linux), with a miniature SAM2 at 256 (inference_memory.py).
``--plan`` and ``--memory_depths`` may be empty.

Without ``--weights``, the export of `medsam2-ft demo` is used where it lies in runs/demo, else
random weights that always see an object.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference_volume import LABELS, MARGIN_PX, first_boxes, padded, volume
from numpy.typing import NDArray

from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.propagate import propagate
from medsam2_ft.resize import logits_to_native, to_input
from medsam2_ft.sam2_adapter import Sam2, build_model, image_predictor

VARIANT = "sam2.1_hiera_tiny"
DEMO_EXPORT = Path("runs/demo/exports/last.pt")
# Forward pass of the tiny encoder, measured with torch's FlopCounterMode.
ENCODER_GFLOP = {1024: 292.0, 512: 63.0, 256: 17.5}
Masks = dict[tuple[int, int], NDArray[np.uint8]]
"""Mask by (label, frame), one bit per pixel."""


def run_ours(model: Sam2, frames: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Masks:
    """Each slice encoded once."""
    middle, last = (len(frames) - 1) // 2, len(frames) - 1
    prompts = [
        ObjectPrompt.from_box(label, middle, box, (0, last))
        for label, box in first_boxes(labels, middle, model.image_size).items()
    ]
    masks: Masks = {}
    for found in propagate(model, frames, prompts, strategy="box", margin_px=MARGIN_PX):
        bits = np.packbits((found.logits > 0).cpu().numpy(), axis=-1)
        masks |= {(i, found.frame): row for i, row in zip(found.object_ids, bits, strict=True)}
    return masks


def run_plain(model: Sam2, frames: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Masks:
    """Each slice encoded again for every label."""
    predictor = image_predictor(model)
    middle = (len(frames) - 1) // 2
    masks: Masks = {}
    for label, first in first_boxes(labels, middle, model.image_size).items():
        after_middle = first
        for order in (range(middle, len(frames)), range(middle - 1, -1, -1)):
            box = first if order.step == 1 else after_middle
            for z in order:
                predictor.set_image(np.repeat(frames[z][..., None], 3, axis=-1))
                mask = predictor.predict(box=box, multimask_output=False)[0][0] > 0
                masks[label, z] = np.packbits(mask, axis=-1)
                found = padded(mask, model.image_size)
                box = box if found is None else found
                after_middle = box if z == middle else after_middle
    return masks


@contextmanager
def stopwatch(model: Sam2) -> Iterator[dict[str, float]]:
    """CPU seconds spent in encoder and decoder, whoever calls them."""
    spent: dict[str, float] = defaultdict(float)

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start_s = time.process_time()
            result = function(*args, **kwargs)
            spent[part] += time.process_time() - start_s
            return result

        return call

    core = model.core
    encoder, prompts, decoder = core.image_encoder, core.sam_prompt_encoder, core.sam_mask_decoder
    encoder.forward = timed("encoder", encoder.forward)
    prompts.forward = timed("decoder", prompts.forward)
    decoder.predict_masks = timed("decoder", decoder.predict_masks)
    try:
        yield spent
    finally:
        del encoder.forward, prompts.forward, decoder.predict_masks


def measured(way: Callable[..., Masks], model: Sam2, *data: NDArray[np.uint8]) -> dict[str, Any]:
    """Runs one way and times it and its parts."""
    with stopwatch(model) as spent:
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        masks = way(model, *data)
        wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    return {"wall_s": wall_s, "cpu_s": cpu_s, "parts_cpu_s": dict(spent), "masks": masks}


def ones(bits: NDArray[np.uint8]) -> int:
    """Number of pixels of a packed mask."""
    return int(np.unpackbits(bits).sum())


def overlap(one: Masks, other: Masks) -> list[float]:
    """IoU of each pair of masks; 1 where both are empty."""
    assert one.keys() == other.keys()
    result = []
    for key, bits in one.items():
        union = ones(bits | other[key])
        result.append(ones(bits & other[key]) / union if union else 1.0)
    return result


def mean_dsc(masks: Masks, labels: NDArray[np.uint8]) -> float:
    """Mean DSC against the truth: masks that mean nothing would compare well, too."""
    values = []
    for (label, z), bits in masks.items():
        truth = np.packbits(labels[z] == label, axis=-1)
        values.append(2 * ones(bits & truth) / (ones(bits) + ones(truth)))
    return float(np.mean(values))


def resizing_seconds(frame: NDArray[np.uint8], size: int) -> float:
    """CPU seconds to bring a slice to the input and twelve masks back, groups of four."""
    image, logits = torch.from_numpy(frame[None]), torch.randn(4, 1, size // 4, size // 4)
    seconds = []
    for _ in range(5):
        start_s = time.process_time()
        to_input(image, size)
        for _ in range(LABELS // 4):
            logits_to_native(logits, frame.shape)
        seconds.append(time.process_time() - start_s)
    return statistics.median(seconds)


def matmul_gflops() -> float:
    """Best float32 speed of a large matrix product, GFLOP/s of CPU time."""
    side, seconds = 1536, []
    a, b = torch.randn(2, side, side)
    for _ in range(8):
        start_s = time.process_time()
        a @ b
        seconds.append(time.process_time() - start_s)
    return 2 * side**3 / min(seconds) / 1e9


def load(weights: Path | None, size: int) -> tuple[Sam2, str]:
    """The model at an input size, and what it is."""
    if weights is not None:
        sidecar = json.loads(weights.with_suffix(".json").read_text())
        model = build_model(sidecar["variant"], image_size=size, weights=str(weights))
        return model, f"{sidecar['variant']}, {weights}"
    torch.manual_seed(1)
    model = build_model(VARIANT, image_size=size, weights="random")
    with torch.no_grad():
        model.core.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    return model, f"{VARIANT}, RANDOM WEIGHTS with a biased object score"


def compare(
    model: Sam2, data: tuple[NDArray[np.uint8], NDArray[np.uint8]], slices: int, repeats: int
) -> dict[str, Any]:
    """Both ways on the slices around the middle."""
    start = (len(data[0]) - slices) // 2
    block = [array[start : start + slices] for array in data]
    run_ours(model, block[0][:1], block[1][:1])  # warm-up
    ours = [measured(run_ours, model, *block)]
    plain = measured(run_plain, model, *block)
    ours += [measured(run_ours, model, *block) for _ in range(repeats - 1)]
    ious = overlap(ours[0]["masks"], plain["masks"])
    result: dict[str, Any] = {
        "slices": slices,
        "iou_min": min(ious),
        "iou_mean": float(np.mean(ious)),
        "mask_share": float(np.mean([ones(m) for m in ours[0]["masks"].values()]))
        / block[0][0].size,
        "dsc_ours": mean_dsc(ours[0]["masks"], block[1]),
        "resizing_ours_cpu_s": resizing_seconds(data[0][0], model.image_size),
    }
    for name, runs in (("ours", ours), ("plain", [plain])):
        middle = sorted(runs, key=lambda run: run["cpu_s"])[(len(runs) - 1) // 2]
        result[name] = {key: middle[key] / slices for key in ("wall_s", "cpu_s")} | {
            f"{part}_cpu_s": seconds / slices for part, seconds in middle["parts_cpu_s"].items()
        }
    result["ratio_cpu"] = result["plain"]["cpu_s"] / result["ours"]["cpu_s"]
    result["ratio_wall"] = result["plain"]["wall_s"] / result["ours"]["wall_s"]
    return result


def memory(depths: Sequence[int], side: int) -> dict[str, Any]:
    """Peak memory for several depths, a fresh process each."""
    script = str(Path(__file__).with_name("inference_memory.py"))
    results: dict[str, Any] = {}
    for prompts in ("together", "apart"):
        for depth in depths:
            command = [sys.executable, script, str(depth), str(side), prompts]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = results.setdefault(prompts, {})[str(depth)] = json.loads(done.stdout)
            print(
                f"prompts {prompts}, {depth} slices: peak {row['beside_arrays_mb']:.0f} MB beside "
                f"input and output, {row['growth_mb']:.0f} MB of them since the call"
            )
    return results


def report(size: int, row: dict[str, Any], floor_s: float) -> None:
    """Prints what was measured at one size."""
    ours, plain = row["ours"], row["plain"]
    print(
        f"{size:5} {row['slices']:7} {ours['cpu_s']:9.3f} {plain['cpu_s']:9.3f} "
        f"{row['ratio_cpu']:7.1f} {row['ratio_wall']:7.1f} {row['iou_min']:9.5f} "
        f"{row['dsc_ours']:6.3f} {ours['encoder_cpu_s'] / ours['cpu_s']:8.0%} "
        f"{ours['decoder_cpu_s'] / ours['cpu_s']:8.0%} "
        f"{row['resizing_ours_cpu_s'] / ours['cpu_s']:8.0%} "
        f"{plain['encoder_cpu_s'] / plain['cpu_s']:8.0%} {floor_s:9.3f}",
        flush=True,
    )


def main() -> None:
    """Measures, prints and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", nargs="*", default=["1024:4", "512:8", "256:40"])
    parser.add_argument("--weights", type=Path, help="an export with its .json beside it")
    parser.add_argument("--depth", type=int, default=40)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory_depths", type=int, nargs="*", default=[40, 400])
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    weights = args.weights or (DEMO_EXPORT if DEMO_EXPORT.is_file() else None)
    data, speed = volume(args.depth, args.side), matmul_gflops()
    result: dict[str, Any] = {"threads": args.threads, "matmul_gflop_per_s": speed, "sizes": {}}
    print(f"{LABELS} labels, {data[0].shape}; matrix product {speed:.0f} GFLOP/s of CPU time")
    print("CPU seconds per slice; parts as shares of the way's own CPU time")
    print(
        f"{'input':>5} {'slices':>7} {'ours':>9} {'plain':>9} {'ratio':>7} {'(wall)':>7} "
        f"{'IoU min':>9} {'DSC':>6} {'encoder':>8} {'decoder':>8} {'resizing':>8} {'plain e.':>8} "
        f"{'floor':>9}"
    )
    for size, slices in (map(int, entry.split(":")) for entry in args.plan):
        model, result["weights"] = load(weights, size)
        row = compare(model, data, slices, args.repeats)
        row["floor_s_per_slice"] = ENCODER_GFLOP.get(size, float("nan")) / speed
        report(size, row, row["floor_s_per_slice"])
        result["sizes"][str(size)] = row
    print(f"weights: {result.get('weights')}")
    result["memory"] = memory(args.memory_depths, args.side)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
