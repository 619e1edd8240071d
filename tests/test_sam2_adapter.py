"""Building, loading and helpers of the adapter; numbers are compared with Meta's in parity/."""

import copy
from pathlib import Path

import pytest
import torch

from medsam2_ft.errors import UserError
from medsam2_ft.features import Decoded
from medsam2_ft.sam2_adapter import (
    Sam2,
    build_model,
    enable_activation_checkpointing,
    encoder_stage_parameters,
    image_predictor,
    video_predictor,
)

BOX = torch.tensor([[8.0, 8.0, 40.0, 44.0]])
FIRST = torch.zeros(1, dtype=torch.int64)


def build(seed: int = 0, image_size: int = 64, weights: str = "random") -> Sam2:
    torch.manual_seed(seed)
    return build_model("tiny_test", image_size=image_size, weights=weights)


@pytest.fixture(scope="module")
def model() -> Sam2:
    return build()


@pytest.fixture(scope="module")
def official_file(model: Sam2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save({"model": model.core.state_dict()}, path)
    return path


def tokens(model: Sam2, images: torch.Tensor, count: int = 1) -> Decoded:
    return model.decode_all(model.encode(images), FIRST.repeat(count), BOX.repeat(count, 1))


def test_random_weights_follow_the_global_seed_and_are_announced(
    model: Sam2, caplog: pytest.LogCaptureFixture
) -> None:
    same, other = build(0).core.state_dict(), build(1).core.state_dict()
    assert "RANDOM WEIGHTS" in caplog.text
    state = model.core.state_dict()
    assert all(torch.equal(state[key], same[key]) for key in state)
    assert any(not torch.equal(state[key], other[key]) for key in state)


def test_a_model_is_built_in_evaluation_mode_with_metas_defaults(model: Sam2) -> None:
    assert not any(module.training for module in model.modules())
    assert model.core.sam_mask_decoder.dynamic_multimask_via_stability
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("size", [64, 96, 128])
def test_shapes(size: int) -> None:
    model = build(image_size=size)
    encoding = model.encode(torch.zeros(2, 3, size, size))
    assert [tuple(level.shape) for level in encoding.levels] == [
        (2, 32, size // 4, size // 4),
        (2, 64, size // 8, size // 8),
        (2, 256, size // 16, size // 16),
    ]
    index, boxes = torch.tensor([0, 1, 1]), BOX.repeat(3, 1)
    every = model.decode_all(encoding, index, boxes)
    single = model.decode(encoding, index, boxes)
    assert every.mask_logits.shape == (3, 4, size // 4, size // 4)
    assert every.iou.shape == (3, 4)
    assert single.mask_logits.shape == (3, 1, size // 4, size // 4)
    assert single.iou.shape == single.object_score_logits.shape == (3, 1)
    assert encoding.detach().levels[0].grad_fn is None
    assert encoding.nbytes == sum(level.numel() * 4 for level in encoding.levels)


@pytest.mark.parametrize("variant", ["sam2_hiera_tiny", "sam2.1_hiera_tiny"])
def test_released_variants_have_metas_keys(variant: str) -> None:
    model = build_model(variant, image_size=256, weights="random")
    assert ("no_obj_embed_spatial" in model.core.state_dict()) == ("2.1" in variant)
    assert model.encode(torch.zeros(1, 3, 256, 256)).levels[2].shape == (1, 256, 16, 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        f"{family}_hiera_{size}"
        for family in ("sam2", "sam2.1")
        for size in ("small", "base_plus", "large")
    ],
)
def test_larger_released_variants_build_and_decode(variant: str) -> None:
    model = build_model(variant, image_size=256, weights="random")
    with torch.no_grad():
        assert tokens(model, torch.zeros(1, 3, 256, 256)).mask_logits.shape == (1, 4, 64, 64)
    from medsam2_ft.weights import guess_variant

    assert guess_variant(model.core.state_dict()) == variant


@pytest.mark.parametrize("count", [0, 2])
def test_every_reached_parameter_gets_the_same_gradients_with_and_without_prompts(
    model: Sam2, count: int
) -> None:
    """Without prompts the graph stays whole and every gradient is zero, not missing."""
    model.zero_grad()
    tokens(model, torch.zeros(1, 3, 64, 64), 1).mask_logits.sum().backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    out = tokens(model, torch.zeros(1, 3, 64, 64), count)
    assert len(out.mask_logits) == len(out.iou) == len(out.object_score_logits) == count
    out.mask_logits.sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == reached
    assert any(gradient.any() for gradient in gradients.values()) == (count > 0)
    model.zero_grad()


def test_unstable_masks_fall_back_to_the_best_alternative(model: Sam2) -> None:
    side = 16
    stable = torch.full((side, side), -9.0)
    stable[4:8, 4:8] = 9.0
    unstable = torch.linspace(-0.1, 0.1, side * side).reshape(side, side)
    masks = torch.stack(
        [
            torch.stack([first, *torch.eye(side).expand(3, side, side) * 9.0])
            for first in (stable, unstable)
        ]
    )
    masks[:, 2] += 1
    iou = torch.tensor([[0.1, 0.2, 0.9, 0.3]]).repeat(2, 1)
    chosen = model.single_mask(Decoded(masks, iou, torch.zeros(2, 1)))
    assert torch.equal(chosen.mask_logits[0, 0], masks[0, 0])
    assert torch.equal(chosen.mask_logits[1, 0], masks[1, 2])
    assert chosen.iou[:, 0].tolist() == pytest.approx([0.1, 0.9])


def test_without_the_fallback_token_zero_is_taken(model: Sam2) -> None:
    plain = copy.deepcopy(model)
    plain.core.sam_mask_decoder.dynamic_multimask_via_stability = False
    image = torch.randn(1, 3, 64, 64)
    single = plain.decode(plain.encode(image), FIRST, BOX)
    assert torch.equal(single.mask_logits, tokens(plain, image).mask_logits[:, :1])


def test_track_takes_prompts_or_memory(model: Sam2) -> None:
    encoding = model.encode(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="prompts, memory"):
        model.track(encoding, 0, None, None, num_frames=2, reverse=False)


@pytest.mark.parametrize("layout", ["official", "lightning", "compiled"])
def test_checkpoints_of_every_layout_load_bit_for_bit(
    layout: str, model: Sam2, tmp_path: Path
) -> None:
    state = model.core.state_dict()
    content = {
        "official": {"model": state},
        "lightning": {
            "state_dict": {f"model.core.{k}": v for k, v in state.items()}
            | {"evaluation_means.loss.mean_value": torch.zeros(1)},
            "hyper_parameters": {"variant": "tiny_test"},
            "epoch": 3,
        },
        "compiled": {
            "state_dict": {
                f"model.core.{k}".replace("encoder.", "encoder._orig_mod.", 1): v
                for k, v in state.items()
            }
        },
    }[layout]
    path = tmp_path / "weights.ckpt"
    torch.save(content, path)
    loaded = build(7, weights=str(path)).core.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_metas_builder_loads_our_state_strictly(model: Sam2, official_file: Path) -> None:
    predictor = video_predictor(model)
    official = torch.load(official_file, weights_only=True)["model"]
    assert predictor.load_state_dict(official, strict=True).missing_keys == []


def test_image_predictor_has_the_feature_sizes_of_the_model(model: Sam2) -> None:
    assert image_predictor(model)._bb_feat_sizes == [(16, 16), (8, 8), (4, 4)]


def test_wrong_variant_is_named(official_file: Path) -> None:
    with pytest.raises(UserError, match=r"tiny\.pt.*no_obj_embed_spatial|tiny\.pt.*shape"):
        build_model("sam2_hiera_tiny", image_size=64, weights=str(official_file))


def test_the_variant_that_a_checkpoint_looks_like_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    small = build_model("sam2.1_hiera_small", image_size=64, weights="random")
    torch.save({"model": small.core.state_dict()}, path)
    with pytest.raises(UserError, match=r"looks like sam2\.1_hiera_small"):
        build_model("sam2.1_hiera_tiny", image_size=64, weights=str(path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", "no_mem_embed is missing"),
        ("extra", "surprise does not belong"),
        ("shape", r"no_mem_embed has shape \(2,\)"),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named(
    change: str, words: str, model: Sam2, tmp_path: Path
) -> None:
    state = dict(model.core.state_dict())
    if change == "missing":
        del state["no_mem_embed"]
    elif change == "extra":
        state["surprise"] = torch.zeros(1)
    else:
        state["no_mem_embed"] = torch.zeros(2)
    path = tmp_path / "changed.pt"
    torch.save({"model": state}, path)
    with pytest.raises(UserError, match=words):
        build(weights=str(path))


@pytest.mark.parametrize("size", [0, -64, 100, 48])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"image size {size} "):
        build(image_size=size)


def test_unknown_variant_is_refused() -> None:
    with pytest.raises(UserError, match=r"'sam3'.*sam2\.1_hiera_tiny.*tiny_test"):
        build_model("sam3", weights="random")


def test_activation_checkpointing_keeps_gradients_bit_for_bit_and_names(model: Sam2) -> None:
    images = torch.randn(2, 3, 64, 64)

    def gradients(network: Sam2) -> dict[str, torch.Tensor | None]:
        network.zero_grad()
        tokens(network, images).mask_logits.pow(2).sum().backward()
        return {n: p.grad for n, p in network.named_parameters()}

    def saved_bytes(network: Sam2) -> int:
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network.encode(images)
        return total

    lean = copy.deepcopy(model)
    enable_activation_checkpointing(lean)
    wrapped = lean.core.image_encoder.trunk.blocks[0].forward
    enable_activation_checkpointing(lean)
    assert lean.core.image_encoder.trunk.blocks[0].forward is wrapped
    assert lean.state_dict().keys() == model.state_dict().keys()
    passes: list[int] = []
    first_block = lean.core.image_encoder.trunk.blocks[0]
    first_block.norm1.register_forward_hook(lambda *_: passes.append(1))
    expected, actual = gradients(model), gradients(lean)
    assert len(passes) == 2  # forward, and once more in the backward pass
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        other = actual[name]
        assert (gradient is None) == (other is None), name
        assert gradient is None or other is None or torch.equal(gradient, other), name
    assert saved_bytes(lean) < 0.7 * saved_bytes(model)
    model.zero_grad()


def test_copies_of_a_checkpointed_model_are_independent(model: Sam2) -> None:
    lean = copy.deepcopy(model)
    enable_activation_checkpointing(lean)
    copied = copy.deepcopy(lean)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(2.0)
    image = torch.randn(1, 3, 64, 64)
    difference = copied.encode(image).levels[2] - lean.encode(image).levels[2]
    assert difference.abs().max() > 0


def test_encoder_stages(model: Sam2) -> None:
    encoder = {n for n, _ in model.named_parameters() if n.startswith("core.image_encoder.")}
    neck = {n for n in encoder if ".neck." in n}
    embeddings = {n for n in encoder if "_embed" in n}
    assert encoder_stage_parameters(model, 0) == set()
    assert encoder_stage_parameters(model, 4) == encoder - embeddings
    last = encoder_stage_parameters(model, 1)
    assert last - neck == {n for n in encoder if ".blocks.4." in n}
    two = encoder_stage_parameters(model, 2)
    assert two - last == {n for n in encoder if ".blocks.2." in n or ".blocks.3." in n}
    for wrong in (-1, 5):
        with pytest.raises(UserError, match="4 stages"):
            encoder_stage_parameters(model, wrong)
