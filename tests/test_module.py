"""The training step on the tiny SAM2: what trains, what it is divided by, what it is called."""

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from medsam2_ft.data.batch import SliceBatch
from medsam2_ft.errors import UserError
from medsam2_ft.module import FineTuner

SIZE = 64


def make_batch(prompts_per_image: list[int], seed: int = 0, negatives: int = 0) -> SliceBatch:
    """Squares of random brightness on noise, one mask each; the last masks are made negative."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(prompts_per_image)
    images = torch.randint(0, 80, (len(prompts_per_image), 1, SIZE, SIZE), generator=generator)
    masks = torch.zeros(n, SIZE // 4, SIZE // 4, dtype=torch.bool)
    corners = torch.randint(0, 8, (n, 2), generator=generator)
    index = torch.repeat_interleave(
        torch.arange(len(prompts_per_image)), torch.tensor(prompts_per_image)
    )
    for i, (x, y) in enumerate(corners.tolist()):
        images[index[i], 0, 4 * y : 4 * y + 24, 4 * x : 4 * x + 24] += 120
        masks[i, y : y + 6, x : x + 6] = i < n - negatives
    x, y = (corners * 4).float().unbind(1)
    boxes = torch.stack([x, y, x + 23, y + 23], dim=1)
    modality = torch.zeros(len(prompts_per_image), dtype=torch.int64)
    return SliceBatch(images.to(torch.uint8), masks, boxes, index, modality)


def tuner(**options: object) -> FineTuner:
    torch.manual_seed(0)
    options = {"variant": "tiny_test", "weights": "random", "image_size": SIZE} | options
    return FineTuner(**options)


def fit(module: FineTuner, batches: list[SliceBatch], tmp_path: Path, **options: object) -> Trainer:
    options = {"max_epochs": 1} | options
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return trainer


PAPER = {"multimask_weight": 0.0, "iou_weight": 0.0, "object_score_weight": 0.0}


@pytest.mark.parametrize(
    ("trainable", "losses"),
    [
        ("encoder+decoder", {}),
        ("encoder+decoder", PAPER),
        ("decoder", {}),
        ("last_2_stages+decoder", {}),
        ("reached", {}),
    ],
)
def test_every_trainable_tensor_moves_and_every_other_stays(
    trainable: str, losses: dict[str, float], tmp_path: Path
) -> None:
    module = tuner(trainable=trainable, weight_decay=0.0, **losses)
    before = copy.deepcopy(module.model.core.state_dict())
    trains = {name for name, p in module.model.core.named_parameters() if p.requires_grad}
    assert 0 < len(trains) < len(before)
    gradients: dict[str, float] = {}

    def remember(optimizer: torch.optim.Optimizer) -> None:
        for name, parameter in module.model.core.named_parameters():
            if parameter.grad is not None:
                gradients[name] = max(gradients.get(name, 0), parameter.grad.abs().max().item())

    hook = module.on_before_optimizer_step
    module.on_before_optimizer_step = lambda optimizer: (remember(optimizer), hook(optimizer))
    # several scenes: one box can leave a rectifier of a small head dead
    fit(module, [make_batch([3, 2], seed, negatives=1) for seed in range(4)], tmp_path)
    assert {name for name, size in gradients.items() if size > 0} == trains
    after = module.model.core.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == trains


def test_choices_train_what_their_names_say() -> None:
    names = {
        part: {n for n, p in tuner(trainable=part).model.core.named_parameters() if p.requires_grad}
        for part in ("encoder+decoder", "decoder", "last_1_stages+decoder", "reached")
    }
    assert not any(n.startswith("sam_prompt_encoder") for n in names["encoder+decoder"])
    assert any(n.startswith("sam_prompt_encoder") for n in names["reached"])
    assert not any(n.startswith("image_encoder") for n in names["decoder"])
    assert names["decoder"] < names["last_1_stages+decoder"] < names["encoder+decoder"]


def test_unknown_choice_is_refused() -> None:
    # the shape and type checks that tests switch on come first here
    with pytest.raises((UserError, TypeCheckError), match="everything"):
        tuner(trainable="everything")


def step_gradients(
    module: FineTuner, batches: list[SliceBatch], tmp_path: Path, **options: object
) -> list[torch.Tensor]:
    """Gradients that the first optimiser step would use."""
    seen: list[torch.Tensor] = []
    divide = module.on_before_optimizer_step

    def hook(optimizer: torch.optim.Optimizer) -> None:
        divide(optimizer)
        if not seen:
            seen.extend(p.grad.clone() for p in module.parameters() if p.grad is not None)

    module.on_before_optimizer_step = hook
    fit(module, batches, tmp_path, **options)
    return seen


def relative_difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    assert len(a) == len(b) > 0
    scale = max(x.abs().max() for x in a)
    assert scale > 1e-3, "the gradients are too small to tell anything"
    return float(max((x - y).abs().max() for x, y in zip(a, b, strict=True)) / scale)


def test_gradient_is_the_mean_over_prompts(tmp_path: Path) -> None:
    batch = make_batch([3, 1], negatives=1)
    module = tuner()
    reference = copy.deepcopy(module).train()
    _, losses = reference._decode(batch)
    losses.total(reference.loss_weights).mean().backward()
    expected = [p.grad for p in reference.parameters() if p.grad is not None]
    assert relative_difference(expected, step_gradients(module, [batch], tmp_path)) < 1e-6


def test_accumulated_batches_of_unequal_size_are_one_batch(tmp_path: Path) -> None:
    first, second = make_batch([3], seed=1), make_batch([1, 1], seed=2)
    both = SliceBatch(
        images=torch.cat([first.images, second.images]),
        masks=torch.cat([first.masks, second.masks]),
        boxes=torch.cat([first.boxes, second.boxes]),
        image_index=torch.cat([first.image_index, second.image_index + 1]),
        modality=torch.cat([first.modality, second.modality]),
    )
    whole = step_gradients(tuner(), [both], tmp_path)
    parts = step_gradients(tuner(), [first, second], tmp_path, accumulate_grad_batches=2)
    assert relative_difference(whole, parts) < 1e-5


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_gradients_are_clipped_in_mixed_precision_too(precision: str, tmp_path: Path) -> None:
    batch = make_batch([3, 1], negatives=1)
    options: dict[str, object] = {"precision": precision}
    if precision == "16-mixed":
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        options = {"plugins": MixedPrecision(precision, "cpu", scaler)}
    plain, module = tuner(), tuner()
    fit(plain, [batch], tmp_path, gradient_clip_val=0.01)
    fit(module, [batch], tmp_path, gradient_clip_val=0.01, **options)
    expected, found = (
        torch.cat([p.grad.flatten() for p in tuned.parameters() if p.grad is not None])
        for tuned in (plain, module)
    )
    assert float(found.norm()) == pytest.approx(0.01, rel=1e-3)
    assert torch.cosine_similarity(expected, found, dim=0) > 0.95


def test_a_batch_without_prompts_changes_nothing(tmp_path: Path) -> None:
    batch, empty = make_batch([2, 1]), make_batch([0, 0])
    alone = step_gradients(tuner(), [batch], tmp_path)
    padded = step_gradients(tuner(), [batch, empty], tmp_path, accumulate_grad_batches=2)
    assert relative_difference(alone, padded) < 1e-6


def test_parameter_groups(tmp_path: Path) -> None:
    module = tuner(lr_encoder=1e-4, lr_decoder=3e-4, weight_decay=0.1)
    groups = {group["name"]: group for group in module._parameter_groups()}
    assert set(groups) == {"encoder", "encoder/no_decay", "decoder", "decoder/no_decay"}
    assert [groups[name]["lr"] for name in ("encoder", "decoder")] == [1e-4, 3e-4]
    assert groups["decoder"]["weight_decay"] == 0.1
    assert groups["decoder/no_decay"]["weight_decay"] == 0.0
    by_id = {id(p): n for n, p in module.model.core.named_parameters()}
    undecayed = {by_id[id(p)] for n, g in groups.items() if "no" in n for p in g["params"]}
    assert "image_encoder.trunk.blocks.0.norm1.weight" in undecayed
    assert "sam_mask_decoder.output_upscaling.0.bias" in undecayed
    assert not any(n.endswith("attn.qkv.weight") for n in undecayed)
    sizes = sum(len(group["params"]) for group in groups.values())
    assert sizes == sum(p.requires_grad for p in module.parameters())


def test_learning_rate_rises_and_falls(tmp_path: Path) -> None:
    module = tuner(lr_encoder=1e-3, lr_decoder=1e-3, warmup_share=0.25, final_lr_share=0.1)
    rates: list[float] = []
    module.on_train_batch_start = lambda batch, index: rates.append(
        module.optimizers().param_groups[0]["lr"]
    )
    fit(module, [make_batch([1])] * 8, tmp_path)
    assert rates[0] == pytest.approx(5e-4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (1, 2)
    assert all(a > b for a, b in itertools.pairwise(rates[2:]))
    assert 1e-4 < rates[-1] < 3e-4


def test_logged_values(tmp_path: Path) -> None:
    module = tuner()
    trainer = fit(module, [make_batch([2, 1])] * 2, tmp_path)
    logged = trainer.logged_metrics
    for name in ("loss", "dice_loss", "bce_loss", "multimask_loss", "iou_loss", "score_loss"):
        assert logged[f"train/{name}"] > 0
    assert 0 <= logged["train/dsc"] <= 1
    assert logged["grad_norm"] > 0
    assert logged["lr/encoder"] > 0
    assert logged["lr/decoder"] > 0


def test_validation_counts_every_prompt_once(tmp_path: Path) -> None:
    module = tuner().eval()
    batches = [make_batch([3], seed=1), make_batch([0], seed=2), make_batch([1], seed=3)]
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    result = trainer.validate(module, DataLoader(batches, batch_size=None), verbose=False)[0]
    with torch.no_grad():
        dice = torch.cat([module._decode(batch)[1].dice for batch in batches])
    assert len(dice) == 4
    assert result["val/dice_loss"] == pytest.approx(dice.mean().item(), abs=1e-6)


def test_activation_checkpointing_keeps_the_gradient(tmp_path: Path) -> None:
    batch = make_batch([2])
    plain = step_gradients(tuner(), [batch], tmp_path)
    recomputed = step_gradients(tuner(activation_checkpointing=True), [batch], tmp_path)
    assert relative_difference(plain, recomputed) < 1e-6


def test_compiled_encoder_keeps_official_names() -> None:
    assert tuner(compile_encoder=True).state_dict().keys() == tuner().state_dict().keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr_encoder", -1e-4),
        ("lr_decoder", math.inf),
        ("lr_decoder", math.nan),
        ("weight_decay", -0.1),
        ("beta2", 1.0),
        ("warmup_share", -0.1),
        ("warmup_share", 1.1),
        ("final_lr_share", 2.0),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"--model.{name} is {value}; choose 0"):
        FineTuner(variant="tiny_test", weights="random", image_size=64, **{name: value})


def test_checkpoint_with_other_tensors_is_refused() -> None:
    tuner = FineTuner(variant="tiny_test", weights="random", image_size=64)
    state = tuner.state_dict()
    tuner.on_load_checkpoint({"state_dict": dict(state)})
    name = "model.core.no_mem_embed"
    for other in (
        {k: v for k, v in state.items() if k != name},
        {**state, name: state[name][..., 1:]},
        {**state, name: state[name], "more": state[name]},
    ):
        with pytest.raises(UserError, match=r"--ckpt_path.*\(1 tensors differ, such as"):
            tuner.on_load_checkpoint({"state_dict": other})
