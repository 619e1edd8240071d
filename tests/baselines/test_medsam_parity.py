"""MedSAM against its published inference, written anew from the description."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_spline_resize import skimage_resize
from torch.nn.functional import interpolate

from medsam2_ft.propagate import ObjectPrompt, propagate_boxes
from medsam2_ft.slice_model import SliceModel


def published(
    model: SliceModel,
    image: NDArray[np.uint8],
    box: NDArray[np.float32],
    logits_first: bool = False,
) -> NDArray[np.bool_]:
    """The steps of MedSAM_Inference.py for one box, on the same network.

    Args:
        model: Gives the network and its size.
        image: Gray or colour.
        box: In pixels of the image.
        logits_first: Interpolates logits instead of probabilities, which MedSAM does not.
    """
    size, core = model.image_size, model.core
    rgb = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=-1)
    height, width = rgb.shape[:2]
    square = skimage_resize(rgb, size).astype(np.float64)
    square = (square - square.min()) / max(square.max() - square.min(), 1e-8)
    tensor = torch.tensor(square).float().permute(2, 0, 1).unsqueeze(0)
    scaled = box / np.array([width, height, width, height]) * size
    with torch.no_grad():
        sparse, dense = core.prompt_encoder(
            points=None, boxes=torch.as_tensor(scaled).float().reshape(1, 1, 4), masks=None
        )
        low, _ = core.mask_decoder(
            image_embeddings=core.image_encoder(tensor),
            image_pe=core.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        values = low if logits_first else torch.sigmoid(low)
        values = interpolate(values, size=(height, width), mode="bilinear", align_corners=False)
    return (values.squeeze().numpy() > (0.0 if logits_first else 0.5)).astype(bool)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


def contrasted(model: SliceModel, factor: float = 20.0) -> SliceModel:
    """Steeper logits, as of a trained model: probability and logit then interpolate differently."""
    with torch.no_grad():
        for mlp in model.core.mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight.mul_(factor)
            mlp.layers[-1].bias.mul_(factor)
    return model


BOXES = np.array([[30, 40, 180, 200], [120, 10, 280, 250]], dtype=np.float32)


@pytest.mark.parametrize("which", ["gray", "colour", "one value"])
def test_masks_are_those_of_the_published_inference(
    which: str,
    shaken: Callable[..., SliceModel],
    volume: NDArray[np.uint8],
    colour: NDArray[np.uint8],
    assert_telling: Callable[[torch.Tensor], None],
) -> None:
    images = {"gray": volume[8], "colour": colour, "one value": np.full((50, 60), 7, np.uint8)}
    image, model = images[which], contrasted(shaken("medsam_tiny_test"))
    with torch.no_grad():
        logits = model.box_logits(model.encode_frame(image), BOXES, image.shape[:2])
    assert_telling(logits)
    for found, box in zip(logits.numpy(), BOXES, strict=True):
        expected = published(model, image, box)
        assert iou(found > 0, expected) >= 0.999
        if which != "one value":  # the order of sigmoid and interpolation shows
            assert iou(published(model, image, box, logits_first=True), expected) < 0.995


@pytest.mark.slow
def test_the_real_size_gives_the_published_masks(
    shaken: Callable[..., SliceModel],
    volume: NDArray[np.uint8],
    assert_telling: Callable[[torch.Tensor], None],
) -> None:
    model, image = shaken("medsam_vit_b", strength=0.02), volume[8]
    with torch.no_grad():
        logits = model.box_logits(model.encode_frame(image), BOXES[:1], image.shape[:2])
    assert_telling(logits)
    assert iou(logits[0].numpy() > 0, published(model, image, BOXES[0])) >= 0.999


def test_slice_to_slice_uses_the_published_masks(
    shaken: Callable[..., SliceModel], volume: NDArray[np.uint8]
) -> None:
    """Without a margin and with the first box as fallback: the plain loop, mask to box to mask."""
    model = shaken("medsam_tiny_test", seed=4)
    prompt = ObjectPrompt.from_box(1, 2, BOXES[0], (2, 6))
    box = BOXES[0]
    for result in propagate_boxes(model, volume, [prompt], margin_px=0.0, fallback="first"):
        expected = published(model, volume[result.frame], box)
        assert iou(result.logits[0].numpy() > 0, expected) >= 0.999
        rows, columns = (np.flatnonzero(expected.any(axis=axis)) for axis in (1, 0))
        box = np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32)
