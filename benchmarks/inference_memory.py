"""Peak memory of segmenting a generated volume; only means something in a fresh process (Linux).

    python benchmarks/inference_memory.py DEPTH [SIDE] [together|apart]

A miniature SAM2 at 256: what depends on the number of slices is not the model's size. The labels
are prompted all on the middle slice (``together``) or each on another one (``apart``: between the
first and the last of them, slices are passed forward and backward, and features are kept for it).
"""

import json
import sys
from pathlib import Path

import torch
from inference_volume import LABELS, first_boxes, volume

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


def memory_of(depth: int, side: int, apart: bool) -> dict[str, float]:
    """Peak memory in MB of segmenting a volume."""
    torch.set_num_threads(1)
    segmenter = Segmenter.from_checkpoint("random:tiny_test", device="cpu", image_size=MEMORY_SIZE)
    frames, labels = volume(depth, side)
    prompts = []
    for label in range(1, LABELS + 1):
        frame = depth * label // (LABELS + 1) if apart else depth // 2
        box = first_boxes(labels, frame, MEMORY_SIZE)[label]
        prompts.append(ObjectPrompt.from_box(label, frame, box, (0, depth - 1)))
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
    options = dict(enumerate(sys.argv[1:]))
    side_px = int(options.get(1, "512"))
    print(json.dumps(memory_of(int(options[0]), side_px, options.get(2) == "apart")))
