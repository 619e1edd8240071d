"""Peak memory of segmenting a generated volume; only means something in a fresh process (Linux).

    python benchmarks/inference_memory.py DEPTH [SIDE]

A miniature SAM2 at 256: what depends on the number of slices is not the model's size.
"""

import json
import sys
from pathlib import Path

import torch
from inference_volume import first_boxes, volume

from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.types import Volume

MEMORY_SIZE = 256


def high_water(field: str) -> float:
    """A line of /proc/self/status in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(field)


def memory_of(depth: int, side: int) -> dict[str, float]:
    """Peak memory in MB of segmenting a volume; only means something in a fresh process."""
    torch.set_num_threads(1)
    segmenter = Segmenter.from_checkpoint("random:tiny_test", device="cpu", image_size=MEMORY_SIZE)
    frames, labels = volume(depth, side)
    middle = depth // 2
    prompts = [
        ObjectPrompt.from_box(label, middle, box, (0, depth - 1))
        for label, box in first_boxes(labels, middle, MEMORY_SIZE).items()
    ]
    del labels
    before_mb = high_water("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    found = segmenter.segment(Volume(frames, modality="CT"), prompts, strategy="box")
    peak_mb, output_mb = high_water("VmHWM"), sum(m.nbytes for m in found.maps) / 1e6
    return {
        "beside_arrays_mb": peak_mb - frames.nbytes / 1e6 - output_mb,
        "growth_mb": peak_mb - before_mb - output_mb,
        "arrays_mb": frames.nbytes / 1e6 + output_mb,
    }


if __name__ == "__main__":
    print(json.dumps(memory_of(int(sys.argv[1]), int((sys.argv[2:] or ["512"])[0]))))
