"""Loss curves of the fast path and of the plain one, trained on the same samples in the same order.

    python benchmarks/loss_curves.py [--steps 200] [--size 128] [--figure PNG] [--json OUT]

Fast is the package's own module. Plain is Meta's encoder as it is released, channels first; every
object has an image of its own, so no encoding is shared; AdamW runs operation by operation. Both
start from the same random weights and run in float32, with the same losses, prompts and schedule.
Rounding differs, and training amplifies what differs: the curves agree if they stay together.
"""

import argparse
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from report import write_result
from sam2.build_sam import build_sam2
from training_ways import Work, our_training, train_ours, write_cases

from medsam2_ft.data.batch import SliceBatch
from medsam2_ft.features import Decoded, Encoding
from medsam2_ft.io.atomic import atomic_path
from medsam2_ft.losses import PromptLosses, prompt_losses
from medsam2_ft.module import FineTuner
from medsam2_ft.resize import normalize
from medsam2_ft.sam2_adapter import meta_config

SMOOTHED = 20  # steps of the running mean that is compared


class PlainTuner(FineTuner):
    """The same training without what makes it fast."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        config, overrides = meta_config(self.model.variant, self.model.image_size)
        core: Any = build_sam2(config, None, device="cpu", hydra_overrides_extra=overrides)
        core.load_state_dict(self.model.core.state_dict())
        for name, parameter in self.model.core.named_parameters():
            core.get_parameter(name).requires_grad_(parameter.requires_grad)
        self.model.core = core.train()

    def _decode(self, batch: SliceBatch) -> tuple[Decoded, PromptLosses]:
        images = normalize(batch.images)[batch.image_index].contiguous()
        levels = self.model.core.forward_image(images)["backbone_fpn"]
        own = torch.arange(len(images), device=images.device)
        decoded = self.model.decode_all(Encoding(tuple(levels)), own, batch.boxes)
        losses = prompt_losses(
            decoded.mask_logits, decoded.iou, decoded.object_score_logits, batch.masks
        )
        return decoded, losses

    def configure_optimizers(self) -> Any:
        """The same groups and schedule with torch's plain AdamW."""
        chosen: Any = super().configure_optimizers()
        for group in chosen["optimizer"].param_groups:
            group["fused"], group["foreach"] = False, False
        return chosen


class Losses(Callback):
    """Mean loss of each step's prompts."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: SliceBatch,
        batch_idx: int,
    ) -> None:
        """Remembers one."""
        self.values.append(float(outputs["loss"]) / len(batch.boxes))


def curve(module: FineTuner, data: Any, steps: int) -> list[float]:
    """Trains and returns the loss of every step."""
    losses = Losses()
    train_ours(module, data, steps, losses)
    return losses.values


def compare(work: Work, steps: int, lr: float, folder: Path) -> dict[str, Any]:
    """Both curves and how far they are apart."""
    options: dict[str, Any] = {"lr_encoder": lr, "lr_decoder": lr}
    module, data = our_training(work, folder, **options)
    torch.manual_seed(0)
    plain = PlainTuner(
        variant=work.variant,
        weights="random",
        image_size=work.size,
        warmup_share=0.0,
        **options,
    )
    plain.model.core.load_state_dict(module.model.core.state_dict())
    again = our_training(work, folder)[1]
    fast_losses = np.array(curve(module, data, steps))
    plain_losses = np.array(curve(plain, again, steps))
    window = min(SMOOTHED, steps)
    smooth = [
        np.convolve(c, np.ones(window) / window, "valid") for c in (fast_losses, plain_losses)
    ]
    apart = np.abs(fast_losses - plain_losses)
    return {
        "variant": work.variant,
        "size": work.size,
        "objects_per_slice": work.objects,
        "batch": work.batch,
        "steps": steps,
        "lr": lr,
        "dtype": "float32",
        "first_loss": {"fast": fast_losses[0], "plain": plain_losses[0]},
        "last_loss": {"fast": smooth[0][-1], "plain": smooth[1][-1]},
        "apart_first_ten": float(apart[:10].max()),
        "apart_max": float(apart.max()),
        "apart_mean": float(apart.mean()),
        "smoothed_apart_max_relative": float((np.abs(smooth[0] - smooth[1]) / smooth[1]).max()),
        "fast": fast_losses,
        "plain": plain_losses,
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Overlays the curves, and shows their distance below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    steps = np.arange(1, result["steps"] + 1)
    above.plot(steps, result["plain"], color="#E69F00", linewidth=3, label="plain float32 path")
    above.plot(steps, result["fast"], color="#0072B2", linewidth=1, label="fast path")
    above.set_ylabel("loss per prompt")
    above.legend(frameon=False)
    apart = np.abs(np.array(result["fast"]) - np.array(result["plain"]))
    below.semilogy(steps, np.maximum(apart, 1e-9), color="#666666", linewidth=1)
    below.set_ylabel("distance")
    below.set_xlabel("step")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def main() -> None:
    """Trains, prints, draws and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--variant", default=Work.variant)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--side", type=int, default=256, help="of the generated slices")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    work = Work(args.size, args.objects, args.batch, args.variant)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        write_cases(folder, depth=40, side=args.side)
        result = compare(work, args.steps, args.lr, folder)
    print(f"{'':8}{'first loss':>12}{'last loss':>12}   (running mean of {SMOOTHED} steps)")
    for way in ("fast", "plain"):
        print(f"{way:8}{result['first_loss'][way]:12.6f}{result['last_loss'][way]:12.6f}")
    print(
        f"largest distance {result['apart_first_ten']:.2g} in the first ten steps, "
        f"{result['apart_max']:.2g} in all {args.steps}, {result['apart_mean']:.2g} on average; "
        f"running means differ by at most {result['smoothed_apart_max_relative']:.2%}"
    )
    if args.figure is not None:
        draw(result, args.figure)
    write_result(args.json, result)


if __name__ == "__main__":
    main()
