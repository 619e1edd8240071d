"""The parts of a training step: arithmetic, bytes, and seconds of each, forward and backward."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from report import matmul_flop_per_s, median_seconds, memory_byte_per_s
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from training_ways import Work

from medsam2_ft.losses import prompt_losses
from medsam2_ft.module import FineTuner
from medsam2_ft.sam2_adapter import Sam2


class ByteCounter(TorchDispatchMode):
    """Adds up what every operation reads and writes, each tensor once per operation.

    That is the traffic without any cache and without fusing; views and empty buffers cost nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Counts and goes on."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if func.is_view or "empty" in name or "detach" in name or "_unsafe_view" in name:
            return result
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        self.total += sum(t.nbytes for t in {id(t): t for t in tensors}.values())
        return result


@dataclass(frozen=True)
class Part:
    """One part of a step; run it as often as wanted.

    Attributes:
        name: What it is.
        run: Forward and backward.
    """

    name: str
    run: Callable[[], Any]

    def measure(self, repeats: int, device: torch.device) -> dict[str, float]:
        """FLOP, bytes and median seconds."""
        self.run()
        with FlopCounterMode(display=False) as flop:
            self.run()
        with ByteCounter() as moved:
            self.run()
        return {
            "gflop": flop.get_total_flops() / 1e9,
            "gb": moved.total / 1e9,
            "seconds": median_seconds(self.run, repeats, device),
        }


def both_passes(
    function: Callable[..., Any], *inputs: Tensor, dtype: torch.dtype = torch.float32
) -> Callable[[], None]:
    """Forward, then backward from gradients of ones; gradients of inputs are made, too.

    Below float32, ``dtype`` is that of autocast.
    """
    leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
    device = inputs[0].device.type

    def run() -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            outputs = [t for t in tree_leaves(function(*leaves)) if t.requires_grad]
        torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])
        for leaf in leaves:
            leaf.grad = None

    return run


def random_prompts(work: Work, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Slice, box and mask of every prompt of a step."""
    index = torch.arange(work.batch, device=device).repeat_interleave(work.objects)
    low = torch.rand(len(index), 2, device=device) * work.size / 2
    masks = torch.rand(len(index), work.size // 4, work.size // 4, device=device) > 0.5
    return index, torch.cat([low, low + work.size / 4], dim=1), masks


def encoder_parts(model: Sam2, images: Tensor, dtype: torch.dtype) -> list[Part]:
    """Patch embedding (with positions), the stages, the neck."""
    encoder = model.core.image_encoder
    trunk, neck = encoder.trunk, encoder.neck

    def embed(x: Tensor) -> Tensor:
        patches: Tensor = trunk.patch_embed(x)
        return patches + trunk._get_pos_embed(patches.shape[1:3])

    def stage(number: int) -> Callable[[Tensor], Tensor]:
        ends = trunk.stage_ends
        blocks = trunk.blocks[0 if number == 0 else ends[number - 1] + 1 : ends[number] + 1]

        def run(x: Tensor) -> Tensor:
            for block in blocks:
                x = block(x)
            return x

        return run

    passes = partial(both_passes, dtype=dtype)
    parts = [Part("patch embedding", passes(embed, images))]
    with torch.no_grad(), torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        x, levels = embed(images), []
        for number in range(len(trunk.stage_ends)):
            parts.append(Part(f"stage {number + 1}", passes(stage(number), x)))
            x = stage(number)(x)
            levels.append(x.permute(0, 3, 1, 2))
    return [*parts, Part("neck", passes(lambda *xs: neck(list(xs))[0], *levels))]


def decoder_parts(model: Sam2, images: Tensor, work: Work, dtype: torch.dtype) -> list[Part]:
    """The decoder with all its prompts, and the losses."""
    index, boxes, masks = random_prompts(work, images.device)
    with torch.no_grad(), torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        encoding = model.encode(images)
        decoded = model.decode_all(encoding, index, boxes)

    def decode(*levels: Tensor) -> tuple[Tensor, ...]:
        out = model.decode_all(type(encoding)(levels), index, boxes)  # type: ignore[arg-type]
        return out.mask_logits, out.iou, out.object_score_logits

    def losses(*outputs: Tensor) -> list[Tensor]:
        return list(vars(prompt_losses(*outputs, masks)).values())

    outputs = decoded.mask_logits, decoded.iou, decoded.object_score_logits
    return [
        Part("decoder", both_passes(decode, *encoding.levels, dtype=dtype)),
        Part("losses", both_passes(losses, *outputs)),
    ]


def measure_parts(
    module: FineTuner, work: Work, device: torch.device, dtype: torch.dtype, repeats: int
) -> list[dict[str, Any]]:
    """Every part of one of our steps, with its share of the roofline.

    The floor of a part is the longer of its arithmetic at the speed of a large matrix product and
    its bytes at the speed of memory, both measured here.
    """
    flop_per_s = matmul_flop_per_s(device, dtype)
    byte_per_s = memory_byte_per_s(device)
    images = torch.randn(work.batch, 3, work.size, work.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    parts = encoder_parts(module.model, images, dtype)
    parts += decoder_parts(module.model, images, work, dtype)
    rows: list[dict[str, Any]] = []
    for part in parts:
        rows.append({"part": part.name} | part.measure(repeats, device))
    rows.append(optimizer_row(module, device, repeats))
    for row in rows:
        arithmetic_s, bytes_s = row["gflop"] * 1e9 / flop_per_s, row["gb"] * 1e9 / byte_per_s
        row |= {"arithmetic_s": arithmetic_s, "bytes_s": bytes_s}
        row["share"] = max(arithmetic_s, bytes_s) / row["seconds"]
        row["bound"] = "arithmetic" if arithmetic_s > bytes_s else "bytes"
    return rows


def optimizer_row(module: FineTuner, device: torch.device, repeats: int) -> dict[str, Any]:
    """AdamW: reads weight, gradient and both moments, writes all but the gradient."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)
    seconds = median_seconds(optimizer.step, repeats, device)
    module.zero_grad()
    n_bytes = 7 * sum(p.nbytes for p in trained)
    return {"part": "optimiser", "gflop": 0.0, "gb": n_bytes / 1e9, "seconds": seconds}


PARTS_HEADER = f"{'part':16}{'GFLOP':>10}{'GB':>8}{'ms':>10}{'floor ms':>10}{'share':>7}  bound by"


def parts_line(row: dict[str, Any]) -> str:
    """One line of the table."""
    floor_s = max(row["arithmetic_s"], row["bytes_s"])
    return (
        f"{row['part']:16}{row['gflop']:10.1f}{row['gb']:8.2f}{1000 * row['seconds']:10.2f}"
        f"{1000 * floor_s:10.2f}{row['share']:7.0%}  {row['bound']}"
    )


def training_flop(module: FineTuner, work: Work) -> float:
    """Arithmetic of encoder and decoder of one of our steps, forward and backward."""
    model = module.model
    index, boxes, _ = random_prompts(work, model.device)
    images = torch.randn(work.batch, 3, work.size, work.size, device=model.device)
    with FlopCounterMode(display=False) as flop:
        out = model.decode_all(model.encode(images), index, boxes)
        (out.mask_logits.mean() + out.iou.mean() + out.object_score_logits.mean()).backward()
    module.zero_grad()
    return float(flop.get_total_flops())
