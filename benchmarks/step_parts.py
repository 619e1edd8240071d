"""The parts of a training step: arithmetic, bytes, and seconds of each, forward and backward."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from report import median_seconds
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


def both_passes(function: Callable[..., Any], *inputs: Tensor) -> Callable[[], None]:
    """Forward, then backward from gradients of ones; gradients of inputs are made, too."""
    leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]

    def run() -> None:
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


def encoder_parts(model: Sam2, images: Tensor) -> list[Part]:
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

    parts = [Part("patch embedding", both_passes(embed, images))]
    with torch.no_grad():
        x, levels = embed(images), []
        for number in range(len(trunk.stage_ends)):
            parts.append(Part(f"stage {number + 1}", both_passes(stage(number), x)))
            x = stage(number)(x)
            levels.append(x.permute(0, 3, 1, 2))
    return [*parts, Part("neck", both_passes(lambda *xs: neck(list(xs))[0], *levels))]


def decoder_parts(model: Sam2, images: Tensor, work: Work) -> list[Part]:
    """The decoder with all its prompts, and the losses."""
    index, boxes, masks = random_prompts(work, images.device)
    with torch.no_grad():
        encoding = model.encode(images)
        decoded = model.decode_all(encoding, index, boxes)

    def decode(*levels: Tensor) -> tuple[Tensor, ...]:
        out = model.decode_all(type(encoding)(levels), index, boxes)  # type: ignore[arg-type]
        return out.mask_logits, out.iou, out.object_score_logits

    def losses(*outputs: Tensor) -> list[Tensor]:
        return list(vars(prompt_losses(*outputs, masks)).values())

    outputs = decoded.mask_logits, decoded.iou, decoded.object_score_logits
    return [
        Part("decoder", both_passes(decode, *encoding.levels)),
        Part("losses", both_passes(losses, *outputs)),
    ]


def step_parts(module: FineTuner, work: Work, device: torch.device) -> list[Part]:
    """All parts of one of our steps but the optimiser."""
    images = torch.randn(work.batch, 3, work.size, work.size, device=device)
    return encoder_parts(module.model, images) + decoder_parts(module.model, images, work)


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
