"""Objects and images trained per second, against the recipe of arXiv 2408.03322.

    python benchmarks/training.py [--plan 1024:12:2 1024:1:2 ...] [--threads 2] [--json OUT]

The paper's way (paper_recipe.py) trains one object of a slice per step; ours is the package's own
module and data module through Lightning, all losses on, up to twelve objects of a slice at once.
Both start from random weights, read the same generated volume, load in the training process, and
take turns, step by step, in two processes: what else the machine does hits both.
``--plan SIZE:OBJECTS:STEPS`` says what ours prompts at once and how many steps count after two to
warm up. Ratios are medians of the steps' ratios, of wall time and of CPU time. The floor is the
arithmetic of our step at the speed of a large matrix product, in CPU time by threads. Peak memory
is that of a fresh process that trains two steps (Linux).
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from report import fresh_process, high_water_mb, matmul_flop_per_s, write_result
from step_parts import training_flop
from training_ways import (
    STORED_SIDE,
    PaperProcess,
    TakeTurns,
    Work,
    our_training,
    paper_training,
    train_ours,
    write_cases,
)

CLOCKS = ("wall", "cpu")
PLAN = ("1024:12:2", "1024:1:3", "512:12:4", "512:1:4", "256:12:8", "256:1:8")


def compare(work: Work, steps: int, folder: Path) -> dict[str, Any]:
    """Trains both ways in turn; times, ratios and rates."""
    module, data = our_training(work, folder)
    with PaperProcess(work, folder) as paper:
        turns = TakeTurns(paper.step)
        train_ours(module, data, steps + turns.warmup, turns)
    result: dict[str, Any] = {"size": work.size, "batch": work.batch, "steps": steps}
    result |= {"objects_per_slice": work.objects, "dtype": "float32"}
    for way, times in (("ours", turns.ours), ("paper", turns.others)):
        wall_s, cpu_s = (statistics.median(column) for column in zip(*times, strict=True))
        objects = work.batch * (work.objects if way == "ours" else 1)
        result[way] = {
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "images_per_s": work.batch / wall_s,
            "objects_per_s": objects / wall_s,
        }
    for column, kind in enumerate(CLOCKS):
        ratios = [p[column] / o[column] for o, p in zip(turns.ours, turns.others, strict=True)]
        result[f"image_ratio_{kind}"] = statistics.median(ratios)
        result[f"object_ratio_{kind}"] = work.objects * result[f"image_ratio_{kind}"]
    result["gflop"] = training_flop(module, work) / 1e9
    return result


def memory(work: Work, folder: Path, way: str) -> dict[str, float]:
    """Peak memory of two steps; only means something in a fresh process."""
    before_mb = high_water_mb("VmRSS")
    if way == "paper":
        training = paper_training(work, folder)
        for _ in range(2):
            training.step()
    else:
        train_ours(*our_training(work, folder), 2, TakeTurns(None))
    return {"peak_mb": high_water_mb(), "before_mb": before_mb}


def memory_of_both(work: Work, folder: Path) -> dict[str, Any]:
    """The same in a fresh process for each way."""
    options = [str(work.size), str(work.objects), str(work.batch), work.variant, str(folder)]
    threads = str(torch.get_num_threads())
    command = [sys.executable, __file__, "--threads", threads, "--memory_of"]
    return {way: fresh_process([*command, way, *options]) for way in ("ours", "paper")}


def report(row: dict[str, Any]) -> None:
    """Prints what was measured."""
    ours, paper, memory_of = row["ours"], row["paper"], row["memory"]
    ratios = [row[f"{what}_ratio_{clock}"] for what in ("image", "object") for clock in CLOCKS]
    print(
        f"{row['size']:5} {row['objects_per_slice']:7} {ours['wall_s']:9.2f} "
        f"{paper['wall_s']:9.2f}"
        + "".join(f" {ratio:7.2f}" for ratio in ratios)
        + f" {ours['images_per_s']:9.3f} {ours['objects_per_s']:9.3f}"
        f" {memory_of['ours']['peak_mb']:9.0f} {memory_of['paper']['peak_mb']:9.0f}"
        f" {row['gflop']:8.0f} {row['share_of_floor']:7.0%}",
        flush=True,
    )


HEADER = (
    f"{'input':>5} {'objects':>7} {'ours s':>9} {'paper s':>9} {'image':>7} {'(cpu)':>7}"
    f" {'object':>7} {'(cpu)':>7} {'images/s':>9} {'objects/s':>9} {'ours MB':>9} {'paper MB':>9}"
    f" {'GFLOP':>8} {'floor':>7}"
)


def main() -> None:
    """Measures, prints and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", nargs="+", default=PLAN, metavar="SIZE:OBJECTS:STEPS")
    parser.add_argument("--batch", type=int, default=1, help="slices per step")
    parser.add_argument("--variant", default=Work.variant)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--side", type=int, default=STORED_SIDE, help="of the generated slices")
    parser.add_argument("--memory_of", nargs=6, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)  # random weights, no GPU: the text above says so
    warnings.simplefilter("ignore")
    if args.memory_of:
        way, size, objects, batch, variant, folder = args.memory_of
        work = Work(int(size), int(objects), int(batch), variant)
        print(json.dumps(memory(work, Path(folder), way)))
        return
    speed = matmul_flop_per_s(torch.device("cpu"), torch.float32)
    print(f"{args.variant}, batch {args.batch}, matrix product {speed / 1e9:.0f} GFLOP/s")
    print(HEADER)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        write_cases(folder, depth=16, side=args.side)
        for size, objects, steps in (map(int, entry.split(":")) for entry in args.plan):
            work = Work(size, objects, args.batch, args.variant)
            row = compare(work, steps, folder)
            floor_s = 1e9 * row["gflop"] / speed
            row["share_of_floor"] = floor_s / (row["ours"]["cpu_s"] / args.threads)
            row["memory"] = memory_of_both(work, folder)
            rows.append(row)
            report(row)
            result = {"variant": args.variant, "weights": "random", "rows": rows}
            write_result(args.json, result | {"matmul_gflop_per_s": speed / 1e9})


if __name__ == "__main__":
    main()
