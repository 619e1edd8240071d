"""How far each part of a training step is from the floor of this machine, forward and backward.

    python benchmarks/floor.py [--sizes 1024 512 256] [--objects 12] [--device cpu] [--json OUT]

The floor is the longer of two times: a part's arithmetic (torch's FlopCounterMode) at the speed of
a large matrix product, and its bytes at the speed of memory. Bytes are what the operations
read and write one by one; caches and fused kernels need fewer, so a share may pass 100 %.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
from report import matmul_flop_per_s, memory_byte_per_s, write_result
from step_parts import PARTS_HEADER, measure_parts, parts_line
from training_ways import Work

from medsam2_ft.module import FineTuner


def main() -> None:
    """Measures, prints and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 512, 256])
    parser.add_argument("--objects", type=int, default=12)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--variant", default=Work.variant)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    speeds = {
        "matmul_gflop_per_s": matmul_flop_per_s(device, dtype) / 1e9,
        "memory_gb_per_s": memory_byte_per_s(device) / 1e9,
    }
    print(", ".join(f"{name} {value:.1f}" for name, value in speeds.items()))
    sizes: dict[str, Any] = {}
    for size in args.sizes:
        work = Work(size, args.objects, args.batch, args.variant)
        module = FineTuner(variant=args.variant, weights="random", image_size=size).to(device)
        print(f"{args.variant} at {size}, {args.batch} slices of {args.objects} objects")
        print(PARTS_HEADER)
        sizes[str(size)] = measure_parts(module, work, device, dtype, args.repeats)
        for row in sizes[str(size)]:
            print(parts_line(row), flush=True)
    work_facts = {"variant": args.variant, "batch": args.batch, "objects": args.objects}
    write_result(args.json, work_facts | {"dtype": args.dtype} | speeds | {"sizes": sizes})


if __name__ == "__main__":
    main()
