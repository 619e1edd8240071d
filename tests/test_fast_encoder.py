"""The faster encoder is Meta's: the same features and gradients, to rounding."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch.nn.functional import interpolate

from medsam2_ft.fast_encoder import position_embedding, speed_up
from medsam2_ft.sam2_adapter import build_model, meta_config
from medsam2_ft.sam2_model import Sam2

TOLERANCE = 1e-5  # of the largest value; float32 rounds at 1e-7 and twelve blocks add up


def metas(variant: str, size: int) -> Sam2:
    """Meta's model as its package builds it, untouched."""
    from sam2.build_sam import build_sam2

    torch.manual_seed(0)
    config, overrides = meta_config(variant, size)
    core = build_sam2(config, None, device="cpu", hydra_overrides_extra=overrides)
    with torch.no_grad():  # released weights start at zero here: positions would not be compared
        torch.nn.init.normal_(core.image_encoder.trunk.pos_embed)
        torch.nn.init.normal_(core.image_encoder.trunk.pos_embed_window)
        for block in core.image_encoder.trunk.blocks:
            torch.nn.init.normal_(block.attn.qkv.bias)  # what padding is made of
    return Sam2(core, variant, size).train()


def apart(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours - expected).abs().max() / expected.abs().max())


# 64: windows tile the map or are as large. 96: they do not, in the tiny and in the real trunk.
@pytest.mark.parametrize(
    ("variant", "size"), [("tiny_test", 64), ("tiny_test", 96), ("sam2.1_hiera_tiny", 128)]
)
def test_features_and_gradients_are_those_of_the_released_encoder(variant: str, size: int) -> None:
    expected = metas(variant, size)
    ours = copy.deepcopy(expected)
    speed_up(ours.core)
    images = torch.randn(2, 3, size, size)
    features = [
        # Meta's model is given its images as its own code does: channels first
        model.core.forward_image(images)["backbone_fpn"]
        if model is expected
        # and ours through the adapter
        else model.encode(images).levels
        for model in (expected, ours)
    ]
    for theirs, own in zip(*features, strict=True):
        assert theirs.std() > 1e-3
        assert apart(own, theirs) < TOLERANCE
    for levels in features:
        sum(level.square().mean() for level in levels).backward()
    compared = 0
    for name, parameter in expected.core.named_parameters():
        gradient, other = parameter.grad, ours.core.get_parameter(name).grad
        assert (gradient is None) == (other is None), name
        if gradient is not None and gradient.abs().max() > 1e-6:
            assert apart(other, gradient) < 10 * TOLERANCE, name
            compared += 1
    assert compared > 50
    assert ours.core.state_dict().keys() == expected.core.state_dict().keys()


def test_positions_are_resized_as_interpolation_does() -> None:
    trunk = metas("tiny_test", 96).core.image_encoder.trunk
    hw = (24, 40)
    expected = interpolate(trunk.pos_embed, size=hw, mode="bicubic").permute(0, 2, 3, 1)
    side = trunk.pos_embed_window.shape[-1]
    tiles = trunk.pos_embed_window.tile(hw[0] // side, hw[1] // side).permute(0, 2, 3, 1)
    assert apart(position_embedding(trunk, hw), expected + tiles) < TOLERANCE


def test_training_goes_on_after_inference_came_first() -> None:
    model = build_model("tiny_test", image_size=96, weights="random").train()
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():  # as Lightning validates before it trains
        model.encode(images)
    model.encode(images).levels[0].mean().backward()
    assert model.core.image_encoder.trunk.pos_embed.grad.abs().max() > 0


def test_a_model_that_is_dropped_is_freed_at_once() -> None:
    model = build_model("tiny_test", image_size=64, weights="random")
    parts = [weakref.ref(part) for part in model.modules()]
    assert len(parts) > 50
    gc.disable()
    try:
        del model
        assert [part for part in parts if part() is not None] == []
    finally:
        gc.enable()


def test_pickled_models_stay_fast() -> None:
    model = build_model("tiny_test", image_size=96, weights="random").eval()
    other = pickle.loads(pickle.dumps(model))
    kinds = [type(part) for part in model.modules()]
    assert [type(part) for part in other.modules()] == kinds
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        for own, theirs in zip(
            other.encode(images).levels, model.encode(images).levels, strict=True
        ):
            assert torch.equal(own, theirs)
