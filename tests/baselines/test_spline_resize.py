"""The resizing for MedSAM against scikit-image's documented algorithm, written with scipy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medsam2_ft.baselines.spline_resize import spline_resize

CPU = torch.device("cpu")


def skimage_resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """``resize(image, (size, size), order=3, preserve_range=True, anti_aliasing=True)`` in colour.

    A Gaussian of (factor - 1) / 2 on every axis that shrinks, ``ndimage.zoom`` on the pixel grid
    over all three axes, mode ``reflect`` (scipy's ``mirror``), clipped to the image's range.
    """
    factors = np.divide(image.shape, (size, size, image.shape[2]))
    smooth = ndimage.gaussian_filter(
        image.astype(np.float64), np.maximum(0, (factors - 1) / 2), mode="mirror"
    )
    resized = ndimage.zoom(smooth, 1 / factors, order=3, mode="mirror", grid_mode=True)
    return np.clip(resized, image.min(), image.max()).astype(np.uint8)


def ours(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.moveaxis(spline_resize(np.moveaxis(image, 2, 0), size, CPU).numpy(), 0, 2)


def assert_equal_but_for_rounding(image: NDArray[np.uint8], size: int, share: float) -> None:
    expected = skimage_resize(image, size).astype(int)
    difference = np.abs(ours(image, size) - expected)
    assert difference.max() <= 1
    assert (difference != 0).mean() <= share


@pytest.mark.parametrize(
    ("file", "share"),
    [
        ("dermoscopy/isic2017/ISIC_0009995.jpg", 0.0005),  # 768 x 1024: one axis stays
        ("ultrasound/busi/images/10026.png", 0.0005),  # 610 x 646: grows
        ("xray/imlab_cxr/1.jpg", 0.0005),  # gray
        pytest.param(  # 1936 x 2592: shrinks
            "dermoscopy/isic2017/ISIC_0014608.jpg", 0.003, marks=pytest.mark.slow
        ),
        ("OCT/octseg_zeiss/img/im00001.png", 0.003),
    ],
)
def test_real_pictures_come_out_the_same(file: str, share: float, test_data: Path) -> None:
    with Image.open(test_data / file) as picture:
        image = np.asarray(picture.convert("RGB"))
    assert_equal_but_for_rounding(image, 1024, share)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_any_size_comes_out_the_same(h: int, w: int, size: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
    # Whole values, as where the size stays, may be cut either way.
    assert_equal_but_for_rounding(image, size, 0.05 if size not in (h, w) else 1.0)


def test_other_interpolations_differ() -> None:
    """The comparison would notice bilinear, unsmoothed or half-pixel-shifted resizing."""
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    expected = skimage_resize(image, 64).astype(int)
    for method in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR):
        other = np.asarray(Image.fromarray(image).resize((64, 64), method)).astype(int)
        assert (np.abs(other - expected) > 1).mean() > 0.1


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (1, 7, 1), (3, 1, 9)])
def test_single_rows_and_columns(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    resized = spline_resize(image, 8, CPU)
    assert resized.shape == (shape[0], 8, 8)
    assert resized.min() >= image.min()
    assert resized.max() <= image.max()
