"""Memory of a training step by variant, input size, batch, checkpointing and dtype.

    python benchmarks/memory.py [--variants NAME ...] [--sizes 512 1024] [--json OUT]

Computed, not measured: weights, gradients and AdamW's two moments, plus every tensor that autograd
keeps for the backward pass, counted by ``saved_tensors_hooks`` on tensors without data
(``FakeTensorMode``, so that a large variant needs no memory), plus what is alive only for a moment:
the block that is recomputed, and gradients as large as the two largest kept tensors.
Autocast is run, so its copies of the weights and its float32 norms are counted. One batch
of one and one of two slices give the constant and the part that grows with the batch.

``--check`` compares with the peak of real steps in fresh processes on this CPU (``VmHWM``, less
what is resident before the model is built). A GPU's own context and fragmentation come on top:
presets leave a fifth to spare (docs/presets.md).
"""

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
from report import fresh_process, high_water_mb, write_result
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from medsam2_ft.features import Encoding
from medsam2_ft.losses import LossWeights, prompt_losses
from medsam2_ft.sam2_adapter import Sam2, build_model, enable_activation_checkpointing
from medsam2_ft.trainable import freeze_all_but

VARIANTS = tuple(f"sam2.1_hiera_{size}" for size in ("tiny", "small", "base_plus", "large"))
BF16 = "bf16-mixed"
OBJECTS = 8  # per slice, as data.max_objects
Level = tuple[torch.Size, torch.dtype]
DECODERS: dict[tuple[tuple[Level, ...], int, str], tuple[int, ...]] = {}
BATCHES = (1, 2, 4, 8, 16)
# Real steps that take seconds: size, slices, checkpointing, dtype.
CHECKS = ((256, 2, False, "32-true"), (512, 2, False, "32-true"), (512, 2, True, "32-true"))


def make_model(variant: str, size: int, checkpointing: bool) -> Sam2:
    """The model as training sets it up."""
    model = build_model(variant, image_size=size, weights="random")
    model.train()
    freeze_all_but(model, "encoder+decoder", LossWeights())
    if checkpointing:
        enable_activation_checkpointing(model)
    return model


def encode(model: Sam2, slices: int, precision: str) -> Encoding:
    """Encodes an empty batch."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == BF16):
        return model.encode(torch.zeros(slices, 3, model.image_size, model.image_size))


def loss_of(model: Sam2, encoding: Encoding, slices: int, precision: str) -> torch.Tensor:
    """Decodes `OBJECTS` boxes for each slice and returns the loss."""
    side, prompts = model.image_size // 4, slices * OBJECTS
    index = torch.arange(slices).repeat_interleave(OBJECTS)
    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0]]).repeat(prompts, 1)
    masks = torch.ones(prompts, side, side, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == BF16):
        decoded = model.decode_all(encoding, index, boxes)
        losses = prompt_losses(decoded.mask_logits, decoded.iou, decoded.object_score_logits, masks)
        return losses.total(LossWeights()).sum()


class Kept:
    """Bytes that autograd keeps, each storage once; parameters are not among them."""

    def __init__(self, model: Sam2) -> None:
        self.sizes: dict[int, int] = {}
        self.alive: list[torch.Tensor] = []  # an address is not used again while they live
        self.own = {p.untyped_storage()._cdata for p in model.parameters()}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Counts a tensor; an output that its own graph holds would never be freed."""
        storage = tensor.untyped_storage()
        is_weight = isinstance(tensor, torch.nn.Parameter) or storage._cdata in self.own
        if not is_weight and storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.alive.append(tensor.detach())
        return tensor.detach()

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.sizes.values())


def count(model: Sam2, slices: int, precision: str) -> dict[str, int]:
    """Bytes kept by a forward pass, the most that one encoder block keeps, the largest tensors."""
    kept, blocks, begun = Kept(model), [0], [0]
    hooks = []
    for block in model.core.image_encoder.trunk.blocks:
        hooks.append(block.register_forward_pre_hook(lambda *_: begun.append(kept.total)))
        hooks.append(block.register_forward_hook(lambda *_: blocks.append(kept.total - begun[-1])))
    with (
        saved_tensors_hooks(kept.pack, lambda tensor: tensor),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        levels = encode(model, slices, precision).levels
    for hook in hooks:
        hook.remove()
    decoder = decoder_sizes(model, tuple((x.shape, x.dtype) for x in levels), slices, precision)
    largest = sorted([*kept.sizes.values(), *decoder])[-2:]
    return {"kept": kept.total + sum(decoder), "block": max(blocks), "largest": sum(largest)}


def decoder_sizes(
    model: Sam2, levels: tuple[Level, ...], slices: int, precision: str
) -> tuple[int, ...]:
    """Bytes of each tensor kept by decoder and loss, counted once for all variants.

    They read values, so they are run on zeros of the encoder's shapes.
    """
    key = (levels, slices, precision)
    if key not in DECODERS:
        kept = Kept(model)
        with saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            zeros = tuple(torch.zeros(s, dtype=dtype).requires_grad_() for s, dtype in levels)
            loss_of(model, Encoding(zeros), slices, precision)
        DECODERS[key] = tuple(kept.sizes.values())
    return DECODERS[key]


def table(variant: str, size: int) -> list[dict[str, Any]]:
    """One row for each dtype and with and without checkpointing: bytes that a step needs."""
    rows = []
    plain_blocks: dict[str, int] = {}
    for checkpointing in (False, True):
        model = make_model(variant, size, checkpointing)
        weights = sum(p.nbytes for p in model.parameters())
        trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
        for precision in ("32-true", BF16):
            one, two = count(model, 1, precision), count(model, 2, precision)
            # What is alive for a moment: with checkpointing one block is kept as without.
            moment = two["largest"] - one["largest"]
            if checkpointing:
                moment += plain_blocks[precision]
            else:
                plain_blocks[precision] = two["block"] - one["block"]
            per_slice = two["kept"] - one["kept"]
            constant = weights + 3 * trained + one["kept"] - per_slice
            rows.append(
                {
                    "variant": variant,
                    "image_size": size,
                    "checkpointing": checkpointing,
                    "precision": precision,
                    "constant_bytes": constant,
                    "bytes_per_slice": per_slice + moment,
                }
            )
    return rows


def real_peak(variant: str, size: int, slices: int, checkpointing: bool, precision: str) -> float:
    """Peak of two real steps in MB above what the imports hold; run in a fresh process."""
    before_mb = high_water_mb("VmRSS")
    model = make_model(variant, size, checkpointing)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    for _ in range(2):
        loss_of(model, encode(model, slices, precision), slices, precision).backward()
        optimizer.step()
        optimizer.zero_grad()
    return high_water_mb() - before_mb


def check(variant: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Computed and real peaks side by side, in MB."""
    found = []
    for size, slices, checkpointing, precision in CHECKS:
        wanted = {"image_size": size, "checkpointing": checkpointing, "precision": precision}
        fitting = [r for r in rows if r["variant"] == variant and wanted.items() <= r.items()]
        if not fitting:
            continue
        cell = [variant, str(size), str(slices), str(int(checkpointing)), precision]
        real = fresh_process([sys.executable, __file__, "--real", *cell])["mb"]
        computed = (fitting[0]["constant_bytes"] + slices * fitting[0]["bytes_per_slice"]) / 1e6
        row = {"variant": variant, "batch": slices, "computed_mb": computed, "measured_mb": real}
        found.append(wanted | row | {"error": computed / real - 1})
    return found


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table in GB."""
    heads = ["variant", "size", "checkpointing", "dtype", *(f"batch {b}" for b in BATCHES)]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for r in rows:
        cells = [(r["constant_bytes"] + b * r["bytes_per_slice"]) / 1e9 for b in BATCHES]
        facts = [r["variant"], r["image_size"], "yes" if r["checkpointing"] else "no"]
        texts = [*map(str, facts), r["precision"], *(f"{cell:.1f}" for cell in cells)]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def main() -> None:
    """Computes, prints Markdown and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--check", action="store_true", help="compare with real steps here")
    parser.add_argument("--real", nargs=5, help="variant size batch checkpointing dtype")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    if args.real:
        variant, size, slices, checkpointing, precision = args.real
        peak = real_peak(variant, int(size), int(slices), checkpointing == "1", precision)
        print(json.dumps({"mb": peak}))
        return
    rows = [r for v, size in product(args.variants, args.sizes) for r in table(v, size)]
    print(markdown(rows))
    checks = [c for v in args.variants for c in check(v, rows)] if args.check else []
    for c in checks:
        print(f"{c['image_size']} x {c['batch']}: {c['computed_mb']:.0f} MB computed,", end=" ")
        print(f"{c['measured_mb']:.0f} measured ({c['error']:+.0%})")
    write_result(args.json, {"computed": rows, "checks": checks})


if __name__ == "__main__":
    main()
