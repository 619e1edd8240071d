"""One GPU: ours, option by option, against the recipe of arXiv 2408.03322, and the roofline.

    python benchmarks/gpu.py [--size 1024] [--batch 16] [--budget_s 300] [--json OUT]

Random weights, nothing is downloaded. Every row trains the same sizes with the batch already on the
device, except for the row with workers; its ratio to the row without them says how busy they keep
the device. One object per slice, so that images per second compare. The JSON is written
after every row; a row that fails says why; rows that would begin after the budget are left out.
"""

import argparse
import logging
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu_rows import OURS, PAPER, ROWS, Row, measure
from report import write_result
from step_parts import PARTS_HEADER, measure_parts, parts_line
from training_ways import STORED_SIDE, Work, write_cases

from medsam2_ft.module import FineTuner

LOADED = "ours, bf16, 8 workers"


def try_row(row: Row, *args: Any) -> dict[str, Any]:
    """Measures a row; says what was wrong with the kernel or the memory."""
    try:
        return measure(row, *args)
    except RuntimeError as error:  # torch's for both
        return {"name": row.name, "error": str(error).splitlines()[0][:200]}


def conclude(result: dict[str, Any]) -> dict[str, Any]:
    """Ratios to the paper's row; None where a row of the two is missing."""
    rows = {row["name"]: row for row in result["rows"] if "seconds" in row}
    paper, plain, loaded = (rows.get(name) for name in (PAPER.name, OURS.name, LOADED))
    same_work = [
        row
        for name, row in rows.items()
        if name not in (PAPER.name, LOADED) and row["objects_per_slice"] == 1
    ]
    if paper is not None:
        for row in rows.values():
            row["image_ratio"] = row["images_per_s"] / paper["images_per_s"]
            row["memory_ratio"] = row["peak_gb"] / paper["peak_gb"]
    lean = [row for row in same_work if row.get("memory_ratio", 1.0) <= 0.4]
    best = max(lean or same_work, key=lambda row: float(row["images_per_s"]), default=None)
    busy = plain["seconds"] / loaded["seconds"] if plain and loaded else None
    return {
        "best": None if paper is None or best is None else best["name"],
        "image_ratio": None if best is None else best.get("image_ratio"),
        "memory_ratio": None if best is None else best.get("memory_ratio"),
        "device_busy": busy,
    }


def report(row: dict[str, Any]) -> None:
    """Prints a row."""
    if "error" in row:
        print(f"{row['name']:38} {row['error']}", flush=True)
        return
    print(
        f"{row['name']:38}{1000 * row['seconds']:10.1f}{row['images_per_s']:10.1f}"
        f"{row['peak_gb']:9.2f}{row.get('image_ratio', float('nan')):8.2f}"
        f"{row.get('memory_ratio', float('nan')):8.2f}",
        flush=True,
    )


def main() -> None:
    """Measures, prints and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--variant", default=Work.variant)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side", type=int, default=STORED_SIDE, help="of the generated slices")
    parser.add_argument("--budget_s", type=float, default=300.0)
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS], metavar="ROW")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu tries the script at a small size")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    began_s, device = time.monotonic(), torch.device(args.device)
    work = Work(args.size, 1, args.batch, args.variant)
    facts = {"variant": args.variant, "size": args.size, "batch": args.batch, "steps": args.steps}
    result: dict[str, Any] = facts | {"device": args.device, "rows": [], "roofline": {}}
    print(f"{args.variant} at {args.size}, batch {args.batch}, on {args.device}")
    print(f"{'':38}{'ms':>10}{'images/s':>10}{'GB':>9}{'images':>8}{'memory':>8}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        write_cases(folder, depth=args.batch * 4, side=args.side)
        for row in ROWS:
            if args.only and row.name not in args.only:
                continue
            if time.monotonic() - began_s > args.budget_s:
                measured = {"name": row.name, "error": "left out: the budget is spent"}
            else:
                measured = try_row(row, work, device, args.steps, args.warmup, folder)
            result["rows"].append(measured)
            result |= conclude(result)
            report(measured)
            write_result(args.json, result)
            if row == OURS:  # early: a run that is cut short has it
                result["roofline"] = roofline(work, device)
                write_result(args.json, result)
    print(
        {name: result.get(name) for name in ("best", "image_ratio", "memory_ratio", "device_busy")}
    )


def roofline(work: Work, device: torch.device) -> list[dict[str, Any]]:
    """The parts of our step in bf16."""
    module = FineTuner(variant=work.variant, weights="random", image_size=work.size).to(device)
    rows = measure_parts(module, replace(work, objects=1), device, torch.bfloat16, 3)
    print(PARTS_HEADER)
    for row in rows:
        print(parts_line(row), flush=True)
    return rows


if __name__ == "__main__":
    main()
