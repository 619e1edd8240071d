"""The LightningModule: steps, optimiser and parameter groups. No plots, no files, no maths."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from medsam2_ft import host_memory
from medsam2_ft.data.batch import SliceBatch
from medsam2_ft.data.datamodule import SliceDataModule
from medsam2_ft.errors import UserError
from medsam2_ft.losses import LossWeights, PromptLosses, mask_dsc, prompt_losses
from medsam2_ft.modality_means import ModalityMeans
from medsam2_ft.predict import predict_case
from medsam2_ft.resize import normalize
from medsam2_ft.sam2_adapter import (
    Decoded,
    Sam2,
    build_model,
    enable_activation_checkpointing,
)
from medsam2_ft.trainable import ENCODER, TrainableParts, freeze_all_but
from medsam2_ft.types import Case


class FineTuner(LightningModule):
    """Fine-tunes SAM2 on prompted slices.

    The encoder runs once per slice, the decoder once per prompt. The loss of a step is the sum over
    its prompts; before the optimiser steps, the gradients are divided by the number of prompts on
    all ranks and accumulated batches, so that neither the number of processes nor an uneven number
    of objects changes what is learned.

    Args:
        variant: Released SAM2 model, for example ``sam2.1_hiera_tiny`` (`medsam2-ft weights` lists
            them), or ``tiny_test``.
        weights: ``pretrained`` (official file, looked up or downloaded), ``random``, or the path of
            an official ``.pt``, an export or a Lightning ``.ckpt``.
        image_size: Side of the square input in pixels; linked to ``data.image_size``.
        trainable: ``encoder+decoder``; ``decoder``; ``last_1_stages+decoder`` to
            ``last_3_stages+decoder`` (the encoder's last stages); ``reached`` (everything that the
            loss reaches, the prompt encoder too). Heads that the chosen losses do not reach are
            always frozen.
        dice_weight: Weight of the single mask's Dice loss.
        bce_weight: Weight of the single mask's binary cross-entropy.
        multimask_weight: Weight of Dice + cross-entropy of the three multimask tokens.
        iou_weight: Weight of the IoU head's L1 loss.
        object_score_weight: Weight of the object score's cross-entropy.
        lr_encoder: Peak learning rate of the image encoder.
        lr_decoder: Peak learning rate of everything else that trains.
        weight_decay: AdamW's; not applied to biases and norms.
        beta2: AdamW's second moment decay.
        warmup_share: Share of all optimiser steps with a linearly rising learning rate.
        final_lr_share: Learning rate at the end as a share of its peak (cosine in between); 1
            keeps it constant after the warm-up.
        activation_checkpointing: Recompute the encoder's blocks in the backward pass: one more
            forward pass of the encoder, less memory.
        compile_encoder: Run the image encoder through ``torch.compile``.

    Raises:
        UserError: A number is out of range, or the weights are unusable.
    """

    def __init__(
        self,
        variant: str = "sam2.1_hiera_tiny",
        weights: str = "pretrained",
        image_size: int = 1024,
        trainable: TrainableParts = "encoder+decoder",
        dice_weight: float = 1.0,
        bce_weight: float = 1.0,
        multimask_weight: float = 1.0,
        iou_weight: float = 1.0,
        object_score_weight: float = 1.0,
        lr_encoder: float = 6e-5,
        lr_decoder: float = 6e-5,
        weight_decay: float = 0.01,
        beta2: float = 0.999,
        warmup_share: float = 0.05,
        final_lr_share: float = 0.01,
        activation_checkpointing: bool = False,
        compile_encoder: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        _check_recipe(self.hparams)
        self.loss_weights = LossWeights(
            dice=dice_weight,
            bce=bce_weight,
            multimask=multimask_weight,
            iou=iou_weight,
            object_score=object_score_weight,
        )
        self.model: Sam2 = build_model(variant, image_size=image_size, weights=weights)
        self.model.train()
        freeze_all_but(self.model, trainable, self.loss_weights)
        if activation_checkpointing:
            enable_activation_checkpointing(self.model)
        if compile_encoder:
            # in place: wrapping the module would put a prefix in front of the state's keys
            self.model.core.image_encoder.compile()
        self.means = ModalityMeans(
            ("loss", "dice_loss", "bce_loss", "dsc"), by_modality=("loss", "dsc")
        )
        self.prompts_since_step = 0

    def on_train_epoch_start(self) -> None:
        """The loader's processes have been started by now: this is for the trainer's own."""
        if self.device.type == "cpu":
            host_memory.keep_freed_memory()

    def training_step(self, batch: SliceBatch, batch_idx: int) -> Tensor:
        """Returns the summed loss of the batch's prompts, scaled for `on_before_optimizer_step`."""
        decoded, losses = self._decode(batch)
        total = losses.total(self.loss_weights)
        self.prompts_since_step += len(total)
        self._log_training(losses, total, mask_dsc(decoded.mask_logits[:, 0], batch.masks))
        # undo the averages over ranks (DDP) and over accumulated batches (Lightning)
        return total.sum() * (self.trainer.world_size * self.trainer.accumulate_grad_batches)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divides the gradients by the prompts of this step; runs before clipping."""
        n_prompts = torch.full((), float(self.prompts_since_step), device=self.device)
        n_prompts = self.trainer.strategy.reduce(n_prompts, reduce_op="sum").clamp(min=1)
        self.prompts_since_step = 0
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        torch._foreach_div_(grads, n_prompts)
        self.log("grad_norm", torch.nn.utils.get_total_norm(grads))
        for group in optimizer.param_groups:
            if not group["name"].endswith("/no_decay"):
                self.log(f"lr/{group['name']}", group["lr"])

    def validation_step(self, batch: SliceBatch, batch_idx: int) -> None:
        """Adds the batch's prompts to the validation means."""
        self._evaluation_step(batch)

    def test_step(self, batch: SliceBatch, batch_idx: int) -> None:
        """Adds the batch's prompts to the test means."""
        self._evaluation_step(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/loss``, ``val/dsc`` ..., and both by modality: ``val/CT/dsc``."""
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        """Logs the test means under the same names with ``test``."""
        self._log_means("test")

    def predict_step(self, batch: Case, batch_idx: int) -> Case:
        """Segments a whole case from one box per object, box to box."""
        device = self.device.type
        dtype = torch.float32
        if torch.is_autocast_enabled(device):  # the trainer's precision
            dtype = torch.get_autocast_dtype(device)
        return predict_case(self.model, batch, dtype=dtype)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, four parameter groups, linear warm-up and cosine decay per optimiser step."""
        optimizer = torch.optim.AdamW(
            self._parameter_groups(),
            betas=(0.9, self.hparams["beta2"]),
            fused=self.device.type in ("cpu", "cuda"),
        )
        # A fused optimiser offers to undo an AMP scaler's factor within its step. Gradients are
        # divided and clipped before that, so it is left to the scaler (which bf16 has none of).
        optimizer._step_supports_amp_scaling = False
        total_steps = self._total_steps()
        warmup_steps: int = max(1, round(self.hparams["warmup_share"] * total_steps))
        final_share: float = self.hparams["final_lr_share"]

        def lr_share(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
            return final_share + (1 - final_share) * (1 + math.cos(math.pi * progress)) / 2

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_share)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compares the checkpoint's tensors with this model's before any of them is loaded.

        Raises:
            UserError: A tensor is missing, has another shape, or does not belong.
        """
        own, stored = self.state_dict(), checkpoint["state_dict"]
        wrong = sorted(
            name
            for name in {*own, *stored}
            if name not in own or name not in stored or own[name].shape != stored[name].shape
        )
        if wrong:
            raise UserError(
                f"--ckpt_path: the checkpoint does not fit {self.model.variant} at"
                f" {self.model.image_size} pixels ({len(wrong)} tensors differ, such as"
                f" {wrong[0]}); give one that this version of medsam2-ft wrote for this model"
            )

    def _decode(self, batch: SliceBatch) -> tuple[Decoded, PromptLosses]:
        """Encodes slices once, decodes every prompt to all tokens, compares with the masks."""
        encoding = self.model.encode(normalize(batch.images))
        decoded = self.model.decode_all(encoding, batch.image_index, batch.boxes)
        losses = prompt_losses(
            decoded.mask_logits, decoded.iou, decoded.object_score_logits, batch.masks
        )
        return decoded, losses

    def _evaluation_step(self, batch: SliceBatch) -> None:
        if len(batch.boxes) == 0:  # padding, so that all ranks take as many steps
            return
        decoded, losses = self._decode(batch)
        # the mask that Meta's default settings would return, not simply token 0
        chosen = self.model.single_mask(decoded)
        values = {
            "loss": losses.total(self.loss_weights),
            "dice_loss": losses.dice,
            "bce_loss": losses.bce,
            "dsc": mask_dsc(chosen.mask_logits[:, 0], batch.masks),
        }
        self.means.update(batch.modality[batch.image_index], values)

    def _log_means(self, stage: Literal["val", "test"]) -> None:
        """Every process logs, those that only had padding too: the means are of all of them."""
        for name, value in self.means.compute().items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "dsc", sync_dist=True)
        self.means.reset()

    def _log_training(self, losses: PromptLosses, total: Tensor, dsc: Tensor) -> None:
        """Logs means over the prompts of the batch; of all ranks at the steps that loggers see."""
        values = {
            "loss": total,
            "dice_loss": losses.dice,
            "bce_loss": losses.bce,
            "multimask_loss": losses.multimask,
            "iou_loss": losses.iou,
            "score_loss": losses.object_score,
            "dsc": dsc,
        }
        table: Float[Tensor, "q n"] = torch.stack(list(values.values())).detach().float()
        sums = torch.stack([table.nansum(dim=1), (~table.isnan()).sum(dim=1).float()])
        if self.trainer._logger_connector.should_update_logs:
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        elif len(total) == 0:  # padding
            return
        for name, mean in zip(values, sums[0] / sums[1], strict=True):
            self.log(f"train/{name}", mean, prog_bar=name in ("loss", "dsc"))

    def _total_steps(self) -> int:
        """Optimiser steps of the whole fit.

        Lightning's own estimate makes the training loader; its workers would fetch the first
        batches of the epoch before a checkpoint has said where in the epoch to go on.
        """
        trainer: Any = self.trainer
        if not isinstance(trainer.datamodule, SliceDataModule):
            return int(trainer.estimated_stepping_batches)
        batches = trainer.datamodule.batches_per_epoch
        limits = []
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            limits.append(trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches))
        if trainer.max_steps >= 0:
            limits.append(trainer.max_steps)
        if not limits:
            raise UserError("training without an end: set trainer.max_epochs or trainer.max_steps")
        return int(min(limits))

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Encoder and decoder, each with decayed weights and undecayed biases and norms."""
        groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in self.model.core.named_parameters():
            if parameter.requires_grad:
                part = "encoder" if name.startswith(ENCODER) else "decoder"
                groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
        return [
            {
                "name": part if decayed else f"{part}/no_decay",
                "params": parameters,
                "lr": self.hparams[f"lr_{part}"],
                "weight_decay": self.hparams["weight_decay"] if decayed else 0.0,
            }
            for (part, decayed), parameters in groups.items()
        ]


def _check_recipe(values: Mapping[str, Any]) -> None:
    """Refuses numbers that train nothing or fail after the data are loaded."""
    for name in ("lr_encoder", "lr_decoder", "weight_decay"):
        _check(name, values[name], 0 <= values[name] < math.inf, "0 or more")
    for name in ("warmup_share", "final_lr_share"):
        _check(name, values[name], 0 <= values[name] <= 1, "0 to 1")
    _check("beta2", values["beta2"], 0 <= values["beta2"] < 1, "0 or more and less than 1")


def _check(name: str, value: float, valid: bool, remedy: str) -> None:
    if not valid:
        raise UserError(f"--model.{name} is {value}; choose {remedy}")
