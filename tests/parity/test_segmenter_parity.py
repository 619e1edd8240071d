"""The inference API against Meta's predictors: real images, the same weights, masks compared."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from meta_video import meta_results
from numpy.typing import NDArray
from PIL import Image

from medsam2_ft.io import read_volume
from medsam2_ft.object_prompts import ObjectPrompt, SlicePrompt
from medsam2_ft.sam2_adapter import Sam2, image_predictor
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.types import Geometry, Volume

pytestmark = [
    pytest.mark.filterwarnings("ignore:cannot import name '_C':UserWarning"),
    # Meta's transforms are scripted.
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),
]
MIN_IOU = 0.999
Masks = dict[tuple[int, int], NDArray[np.bool_]]


@pytest.fixture(scope="module")
def small(random_model: Callable[..., Sam2]) -> Segmenter:
    return Segmenter(random_model("sam2.1_hiera_tiny", 256), strategy="memory")


@pytest.fixture(scope="module")
def spleen(test_data: Path) -> tuple[Volume, NDArray[np.uint8]]:
    """Twelve slices of an abdominal CT, and its soft tissue window by SimpleITK."""
    path = test_data / "CT" / "ivadomed_spleen" / "sub-spleen2_ct.nii.gz"
    image = SimpleITK.ReadImage(str(path))
    window = SimpleITK.IntensityWindowing(
        SimpleITK.Cast(image, SimpleITK.sitkFloat32), -160.0, 240.0, 0.0, 255.0
    )
    gray = np.rint(SimpleITK.GetArrayFromImage(window)).astype(np.uint8)
    assert gray.shape[0] > 14
    assert gray.std() > 20
    volume = read_volume(path)
    return replace(volume, array=volume.array[2:14], modality="CT"), gray[2:14]


@pytest.fixture(scope="module")
def clip(test_data: Path) -> tuple[Volume, NDArray[np.uint8]]:
    """The endoscopy clip, and its frames by PIL."""
    folder = test_data / "endoscopy" / "cholecseg8k_clip" / "dev"
    paths = sorted(folder.glob("frame_*_endo.png"))
    assert len(paths) >= 8
    frames = np.stack([read_volume(path).array[0] for path in paths])
    plain = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    return Volume(frames, Geometry(), has_geometry=False, is_video=True), plain


def boxes_for(hw: tuple[int, ...], count: int) -> list[NDArray[np.float32]]:
    """Boxes of different sizes and places in an image."""
    shares = [(0.2, 0.25, 0.6, 0.7), (0.5, 0.4, 0.9, 0.8), (0.1, 0.6, 0.35, 0.9)]
    sides = np.array([hw[1], hw[0]] * 2)
    return [(np.array(share) * sides).astype(np.float32) for share in shares[:count]]


def image_masks(
    model: Sam2, image: NDArray[np.uint8], boxes: Sequence[NDArray[np.float32]]
) -> list[torch.Tensor]:
    """Logits of Meta's image predictor."""
    predictor = image_predictor(model)
    predictor.set_image(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))
    logits = [
        predictor.predict(box=box, multimask_output=False, return_logits=True)[0][0]
        for box in boxes
    ]
    return [torch.from_numpy(one) for one in logits]


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    union = int((one | other).sum())
    return float((one & other).sum() / union) if union else 1.0


def our_masks(segmenter: Segmenter, volume: Volume, prompts: Sequence[ObjectPrompt]) -> Masks:
    """Masks by (object, frame) out of the label maps."""
    labels = segmenter.segment(volume, prompts, overlap="keep")
    return {
        (p.object_id, frame): np.logical_or.reduce(
            [label_map[frame] == p.object_id for label_map in labels.maps]
        )
        for p in prompts
        for frame in range(len(volume.array))
    }


def check(ours: Masks, expected: dict[tuple[int, int], torch.Tensor]) -> None:
    assert ours.keys() == expected.keys()
    worst = {key: iou(ours[key], (logits > 0).numpy()) for key, logits in expected.items()}
    assert min(worst.values()) >= MIN_IOU, worst


@pytest.mark.parametrize("source", ["ct", "png"])
def test_images_equal_the_image_predictor(
    source: str,
    small: Segmenter,
    request: pytest.FixtureRequest,
    assert_telling: Callable[[torch.Tensor], None],
) -> None:
    volume, plain = request.getfixturevalue({"ct": "spleen", "png": "clip"}[source])
    flat = replace(volume, array=volume.array[5:6], is_video=False)
    boxes = boxes_for(plain.shape[1:3], 3)
    expected = image_masks(small.model, plain[5], boxes)
    assert_telling(torch.stack(expected))
    prompts = [ObjectPrompt.from_box(i, 0, box, (0, 0)) for i, box in enumerate(boxes, start=1)]
    ours = our_masks(small, flat, prompts)
    check(ours, {(i, 0): logits for i, logits in enumerate(expected, start=1)})
    moved = our_masks(small, flat, [replace(p, object_id=3 - i) for i, p in enumerate(prompts)])
    assert iou(moved[1, 0], ours[1, 0]) < MIN_IOU, "another box must give another mask"


@pytest.mark.parametrize("source", ["ct", "png"])
def test_volumes_and_videos_equal_the_video_predictor(
    source: str,
    small: Segmenter,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    assert_telling: Callable[[torch.Tensor], None],
) -> None:
    volume, plain = request.getfixturevalue({"ct": "spleen", "png": "clip"}[source])
    frames = slice(0, 6)
    short = replace(volume, array=volume.array[frames])
    boxes = boxes_for(plain.shape[1:3], 2)
    prompts = [ObjectPrompt.from_box(i, 2, box, (0, 5)) for i, box in enumerate(boxes, start=1)]
    expected = meta_results(small.model, plain[frames], prompts, tmp_path)
    assert_telling(torch.stack(list(expected.values())))
    check(our_masks(small, short, prompts), expected)


def test_the_papers_way_equals_both_predictors(
    small: Segmenter,
    spleen: tuple[Volume, NDArray[np.uint8]],
    tmp_path: Path,
    assert_telling: Callable[[torch.Tensor], None],
) -> None:
    """The image predictor's mask prompts the video predictor: forward, reset, backward."""
    volume, plain = spleen
    short, frames = replace(volume, array=volume.array[:4]), plain[:4]
    boxes = boxes_for(plain.shape[1:3], 2)
    drawn = [logits > 0 for logits in image_masks(small.model, frames[1], boxes)]
    prompts = [
        ObjectPrompt(i, (SlicePrompt(1, mask=mask.numpy()),), (0, 3))
        for i, mask in enumerate(drawn, start=1)
    ]
    expected = meta_results(small.model, frames, prompts, tmp_path)
    assert_telling(torch.stack([expected[1, 3], expected[2, 3]]))
    asked = [ObjectPrompt.from_box(i, 1, box, (0, 3)) for i, box in enumerate(boxes, start=1)]
    labels = small.segment(short, asked, protocol="paper", overlap="keep")
    ours = {
        (i, z): np.logical_or.reduce([m[z] == i for m in labels.maps])
        for i in (1, 2)
        for z in range(4)
    }
    check(ours, expected)
