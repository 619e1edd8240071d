import numpy as np
import pytest
import torch

from medsam2_ft.data.batch import Sample, SliceBatch, collate, padding_sample
from medsam2_ft.data.index import MODALITY_NAMES


def sample(n: int, *, colour: bool, size: int = 8) -> Sample:
    rng = np.random.default_rng(n)
    shape = (size, size, 3) if colour else (size, size)
    return Sample(
        image=rng.integers(0, 256, shape).astype(np.uint8),
        masks=rng.random((n, size // 4, size // 4)) < 0.5,
        boxes_xyxy=rng.random((n, 4)).astype(np.float32),
        modality=n,
    )


def test_gray_slices_keep_one_channel() -> None:
    batch = collate([sample(2, colour=False), sample(1, colour=False)])
    assert batch.images.shape == (2, 1, 8, 8)
    assert batch.images.dtype == torch.uint8
    assert batch.image_index.tolist() == [0, 0, 1]


def test_gray_and_colour_mix_to_three_channels() -> None:
    gray, colour = sample(1, colour=False), sample(3, colour=True)
    batch = collate([gray, colour, padding_sample(8)])
    assert batch.images.shape == (3, 3, 8, 8)
    for channel in range(3):
        np.testing.assert_array_equal(batch.images[0, channel], gray.image)
        np.testing.assert_array_equal(batch.images[1, channel], colour.image[..., channel])
    assert batch.image_index.tolist() == [0, 1, 1, 1]
    np.testing.assert_array_equal(batch.masks, np.concatenate([gray.masks, colour.masks]))
    np.testing.assert_array_equal(batch.boxes[1:], colour.boxes_xyxy)
    assert batch.modality.tolist() == [1, 3, MODALITY_NAMES.index("unknown")]


def test_a_batch_of_padding_has_no_prompt() -> None:
    batch = collate([padding_sample(64)])
    assert batch.images.shape == (1, 1, 64, 64)
    assert batch.masks.shape == (0, 16, 16)
    assert batch.masks.dtype == torch.bool
    assert batch.boxes.shape == (0, 4)
    assert batch.image_index.shape == (0,)
    assert batch.image_index.dtype == torch.int64


def test_moves_to_a_device() -> None:
    moved = collate([sample(2, colour=True)]).to("meta")
    assert isinstance(moved, SliceBatch)
    for tensor in (moved.images, moved.masks, moved.boxes, moved.image_index):
        assert tensor.device.type == "meta"


@pytest.mark.gpu
def test_pinned_batch_moves_to_the_gpu_unchanged() -> None:
    batch = collate([sample(2, colour=True)])
    pinned = batch.pin_memory()
    assert pinned.images.is_pinned()
    assert pinned.masks.is_pinned()
    torch.testing.assert_close(pinned.to("cuda", non_blocking=True).to("cpu").images, batch.images)
