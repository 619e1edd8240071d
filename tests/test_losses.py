import math
from dataclasses import fields

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from medsam2_ft.errors import UserError
from medsam2_ft.losses import (
    LossWeights,
    PromptLosses,
    bce_loss,
    dice_loss,
    mask_dsc,
    mask_iou,
    prompt_losses,
)

NAMES = [field.name for field in fields(LossWeights)]


def terms_of(losses: PromptLosses) -> list[torch.Tensor]:
    return [getattr(losses, field.name) for field in fields(losses)]


@pytest.fixture
def prompts() -> tuple[torch.Tensor, ...]:
    """Five prompts at 32 px, the last one negative."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, 32, 32, generator=generator) * 3
    iou = torch.rand(5, 4, generator=generator)
    score = torch.randn(5, 1, generator=generator)
    masks = torch.zeros(5, 32, 32, dtype=torch.bool)
    for i in range(4):
        masks[i, 4 + i : 20, 3 : 10 + 5 * i] = True
    return logits, iou, score, masks


def test_dice_equals_monai(prompts: tuple[torch.Tensor, ...]) -> None:
    from monai.losses import DiceLoss

    logits, _, _, masks = prompts
    ours = dice_loss(logits, masks)
    reference = DiceLoss(sigmoid=True, squared_pred=True, reduction="mean")
    for n in range(5):
        for m in range(4):
            theirs = reference(logits[n : n + 1, m : m + 1], masks[n : n + 1, None].float())
            torch.testing.assert_close(ours[n, m], theirs, rtol=0, atol=1e-7)


def test_the_paper_loss_equals_monai_plus_torch(prompts: tuple[torch.Tensor, ...]) -> None:
    from monai.losses import DiceLoss

    logits, iou, score, masks = (t[:4] for t in prompts)
    single, target = logits[:, :1], masks[:, None].float()
    expected = DiceLoss(sigmoid=True, squared_pred=True, reduction="mean")(single, target)
    expected = expected + torch.nn.BCEWithLogitsLoss(reduction="mean")(single, target)
    paper = LossWeights(dice=1.0, bce=1.0, multimask=0.0, iou=0.0, object_score=0.0)
    ours = prompt_losses(logits, iou, score, masks).total(paper).mean()
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_terms_by_hand() -> None:
    # One prompt, truth = left half of 2x2. Tokens: perfect, all on, all off, right half.
    masks = torch.tensor([[[True, False], [True, False]]])
    big = 20.0
    signs = torch.tensor(
        [[[1, -1], [1, -1]], [[1, 1], [1, 1]], [[-1, -1], [-1, -1]], [[-1, 1]] * 2]
    )
    logits = big * signs[None].float()
    iou_pred = torch.tensor([[0.75, 0.75, 0.75, 0.75]])
    losses = prompt_losses(logits, iou_pred, torch.zeros(1, 1), masks)
    torch.testing.assert_close(losses.dice, torch.zeros(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(losses.bce, torch.zeros(1), rtol=0, atol=1e-5)
    # Dice 1 - 4/6, 1, 1; cross-entropy of a wrong pixel is its logit: 1/2, 1/2 and all pixels.
    expected = ((1 / 3 + 1 + 1) + big * (0.5 + 0.5 + 1)) / 3
    torch.testing.assert_close(losses.multimask, torch.tensor([expected]), rtol=1e-5, atol=1e-5)
    # True IoUs are 1, 1/2, 0, 0.
    expected = (0.25 + 0.25 + 0.75 + 0.75) / 4
    torch.testing.assert_close(losses.iou, torch.tensor([expected]))
    torch.testing.assert_close(losses.object_score, torch.tensor([math.log(2)]))


def test_total_weighs_every_term() -> None:
    losses = PromptLosses(*(torch.full((3,), 10.0**i) for i in range(5)))
    weights = LossWeights(dice=1.0, bce=2.0, multimask=3.0, iou=4.0, object_score=5.0)
    assert losses.total(weights).tolist() == [54321.0] * 3
    assert losses.total(LossWeights(0.0, 0.0, 0.0, 0.0, 2.0)).tolist() == [20000.0] * 3


def test_negatives_teach_the_object_score_alone(prompts: tuple[torch.Tensor, ...]) -> None:
    logits, iou, score, masks = (t.clone() for t in prompts)
    for tensor in (logits, iou, score):
        tensor.requires_grad_()
    losses = prompt_losses(logits, iou, score, masks)
    *mask_terms, object_score = terms_of(losses)
    assert [float(term[4].detach()) for term in mask_terms] == [0.0] * 4
    assert all((term[:4] > 0).all() for term in mask_terms)
    expected = softplus(torch.cat([-score[:4, 0], score[4:, 0]]))
    torch.testing.assert_close(object_score, expected)
    losses.total(LossWeights()).sum().backward()
    assert logits.grad is not None
    assert iou.grad is not None
    assert score.grad is not None
    assert not logits.grad[4].any()
    assert not iou.grad[4].any()
    assert logits.grad[:4].flatten(2).any(dim=2).all()
    assert (iou.grad[:4] != 0).all()
    assert (score.grad != 0).all()


def test_the_true_iou_is_a_constant_target(prompts: tuple[torch.Tensor, ...]) -> None:
    logits, iou, score, masks = prompts
    logits, iou = logits.clone().requires_grad_(), iou.clone().requires_grad_()
    prompt_losses(logits, iou, score, masks).iou.sum().backward()
    assert logits.grad is None
    assert iou.grad is not None


def test_weight_zero_leaves_the_term_out_of_the_graph(prompts: tuple[torch.Tensor, ...]) -> None:
    logits, iou, score, masks = prompts
    logits, iou = logits.clone().requires_grad_(), iou.clone().requires_grad_()
    losses = prompt_losses(logits, iou, score, masks)
    losses.total(LossWeights(iou=0.0, object_score=0.0)).sum().backward()
    assert logits.grad is not None
    assert iou.grad is None


def test_low_precision_inputs_are_computed_in_float32(prompts: tuple[torch.Tensor, ...]) -> None:
    logits, iou, score, masks = prompts
    low = [t.bfloat16() for t in (logits, iou, score)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = prompt_losses(*low, masks)
    exact = prompt_losses(*(t.float() for t in low), masks)
    for a, b in zip(terms_of(ours), terms_of(exact), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_no_prompts_give_empty_losses_with_a_gradient_path() -> None:
    logits = torch.zeros(0, 4, 8, 8, requires_grad=True)
    masks = torch.zeros(0, 8, 8, dtype=torch.bool)
    losses = prompt_losses(logits, torch.zeros(0, 4), torch.zeros(0, 1), masks)
    total = losses.total(LossWeights())
    assert total.shape == (0,)
    total.sum().backward()
    assert logits.grad is not None
    assert mask_dsc(logits[:, 0].detach(), masks).shape == (0,)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.full((1, 4, 4, 4), -1024.0, requires_grad=True)
    masks = torch.ones(1, 4, 4, dtype=torch.bool)
    total = prompt_losses(logits, torch.zeros(1, 4), torch.zeros(1, 1), masks).total(LossWeights())
    total.sum().backward()
    assert total.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_mask_dsc_and_iou() -> None:
    masks = torch.zeros(4, 2, 4, dtype=torch.bool)
    masks[:3, :, :2] = True
    logits = torch.full((4, 2, 4), -1.0)
    logits[0, :, :2] = 1  # equal
    logits[1, :, 1:3] = 1  # half
    logits[3, 0, 0] = 1  # truth is empty; prompt 2: prediction is empty
    dsc = mask_dsc(logits, masks)
    assert dsc[:3].tolist() == [1.0, 0.5, 0.0]
    assert dsc[3].isnan()
    iou = mask_iou(logits[:, None], masks)[:, 0]
    torch.testing.assert_close(iou, torch.tensor([1.0, 1 / 3, 0.0, 0.0]))
    empty = torch.zeros(1, 2, 4, dtype=torch.bool)
    assert mask_iou(-torch.ones(1, 1, 2, 4), empty).item() == 1.0
    assert mask_dsc(torch.zeros(1, 2, 4), masks[:1]).item() == 0.0  # logit 0 is background


def test_bce_equals_torch(prompts: tuple[torch.Tensor, ...]) -> None:
    logits, _, _, masks = prompts
    theirs = binary_cross_entropy_with_logits(logits[2, 3], masks[2].float())
    torch.testing.assert_close(bce_loss(logits, masks)[2, 3], theirs)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"dice": -1.0}, "dice=-1.0"),
        ({"iou": math.nan}, "iou=nan"),
        (dict.fromkeys(NAMES, 0.0), "all loss weights"),
    ],
)
def test_bad_weights_are_named(kwargs: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        LossWeights(**kwargs)
