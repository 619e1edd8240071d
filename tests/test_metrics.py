"""Metrics against DeepMind's own code, MONAI's and numbers worked out by hand."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medsam2_ft.metrics import (
    _check_shapes,
    dice,
    hausdorff_95,
    normalized_surface_dice,
    surface_distances,
)

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]


def reference(pred: Mask, truth: Mask, spacing_mm: Spacing) -> dict[str, Any]:
    """DeepMind's surface distances; its scipy and numpy names are old, its numbers are not."""
    if pred.shape[0] == 1:
        pred, truth, spacing_mm = pred[0], truth[0], spacing_mm[1:]  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return dict(surface_distance.compute_surface_distances(truth, pred, spacing_mm))


def assert_equals_reference(pred: Mask, truth: Mask, spacing_mm: Spacing) -> None:
    theirs = reference(pred, truth, spacing_mm)
    ours = surface_distances(pred, truth, spacing_mm)
    np.testing.assert_array_equal(ours.truth_to_pred_mm, theirs["distances_gt_to_pred"])
    np.testing.assert_array_equal(ours.pred_to_truth_mm, theirs["distances_pred_to_gt"])
    np.testing.assert_allclose(ours.truth_areas_mm2, theirs["surfel_areas_gt"], rtol=1e-12)
    np.testing.assert_allclose(ours.pred_areas_mm2, theirs["surfel_areas_pred"], rtol=1e-12)
    for tolerance_mm in (0.0, 0.5, 2.0, 3.7):
        nsd = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance_mm)
        assert normalized_surface_dice(ours, tolerance_mm) == pytest.approx(nsd, abs=1e-12)
    assert hausdorff_95(ours) == surface_distance.compute_robust_hausdorff(theirs, 95)
    assert dice(pred, truth) == surface_distance.compute_dice_coefficient(truth, pred)


def blob(rng: np.random.Generator, shape: tuple[int, int, int]) -> Mask:
    """A smooth random mask that may touch the border and have several parts."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(rng.standard_normal(shape), sigma=rng.uniform(0.5, 2.5))
    return np.asarray(field > np.quantile(field, rng.uniform(0.5, 0.98)))


@pytest.mark.parametrize("seed", range(60))
def test_equals_surface_distance_on_anisotropic_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(2, 24, size=3))
    if seed % 5 == 0:
        shape = (1, *shape[1:])  # an image: the two-dimensional definition
    spacing = tuple(float(s) for s in rng.choice([0.3, 0.7, 0.8, 1.0, 1.5, 5.0], size=3))
    pred, truth = blob(rng, shape), blob(rng, shape)
    assert pred.any()
    assert truth.any()
    assert_equals_reference(pred, truth, spacing)


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)).flatmap(
        lambda shape: st.tuples(
            st.just(shape),
            st.integers(1, 2 ** math.prod(shape) - 1),
            st.integers(1, 2 ** math.prod(shape) - 1),
        )
    ),
    st.tuples(*[st.floats(0.1, 10.0)] * 3),
)
@settings(max_examples=150, deadline=None)
def test_equals_surface_distance_on_any_mask(
    masks: tuple[tuple[int, int, int], int, int], spacing: Spacing
) -> None:
    shape, *bits = masks
    pred, truth = (
        np.array([b >> i & 1 for i in range(math.prod(shape))], bool).reshape(shape) for b in bits
    )
    assert_equals_reference(pred, truth, spacing)


def box_mask(shape: tuple[int, int, int], start: tuple[int, int, int], size: Any) -> Mask:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def test_one_slice_too_high_is_5_mm_and_not_0_8() -> None:
    """30 x 30 pixels of 0.8 mm on five slices of 5 mm, shifted by one slice."""
    truth = box_mask((9, 40, 40), (1, 5, 5), (5, 30, 30))
    pred = np.roll(truth, 1, axis=0)
    right = normalized_surface_dice(surface_distances(pred, truth, (5.0, 0.8, 0.8)), 2.0)
    reversed_ = normalized_surface_dice(surface_distances(pred, truth, (0.8, 0.8, 5.0)), 2.0)
    assert right == pytest.approx(0.659, abs=5e-4)
    assert reversed_ == 1.0


def test_a_shift_of_3_2_mm_in_the_slice_is_not_hidden_by_thick_slices() -> None:
    """88 x 86 pixels of 0.8 mm on five slices of 5 mm, shifted by four pixels down."""
    truth = box_mask((7, 100, 98), (1, 4, 6), (5, 88, 86))
    pred = np.roll(truth, 4, axis=1)
    right = normalized_surface_dice(surface_distances(pred, truth, (5.0, 0.8, 0.8)), 2.0)
    reversed_ = normalized_surface_dice(surface_distances(pred, truth, (0.8, 0.8, 5.0)), 2.0)
    assert right == pytest.approx(0.807, abs=5e-4)
    assert reversed_ == pytest.approx(0.960, abs=5e-4)


def test_two_planes_by_hand() -> None:
    """Two single rows of pixels in 2D, 3 pixels of 2 mm apart; elements lie on pixel corners."""
    truth = box_mask((1, 12, 12), (0, 2, 1), (1, 1, 10))
    pred = box_mask((1, 12, 12), (0, 5, 1), (1, 1, 10))
    distances = surface_distances(pred, truth, (99.0, 2.0, 1.0))
    # Corners of a row of one pixel lie on two lines: 9 of length 1 on each, 4 corner diagonals.
    assert distances.truth_to_pred_mm.size == 22
    assert sorted(set(distances.truth_to_pred_mm.tolist())) == [4.0, 6.0]
    length = 2 * 9 + 4 * 0.5 * math.hypot(2.0, 1.0)
    assert distances.truth_areas_mm2.sum() == pytest.approx(length)
    assert normalized_surface_dice(distances, 3.9) == 0.0
    assert normalized_surface_dice(distances, 4.0) == pytest.approx(0.5)
    assert normalized_surface_dice(distances, 6.0) == 1.0
    assert hausdorff_95(distances) == 6.0


def test_empty_masks() -> None:
    nothing, something = np.zeros((3, 8, 8), bool), box_mask((3, 8, 8), (1, 2, 2), (1, 4, 4))
    both = surface_distances(nothing, nothing, (1.0, 1.0, 1.0))
    assert math.isnan(dice(nothing, nothing))
    assert math.isnan(normalized_surface_dice(both, 2.0))
    assert math.isnan(hausdorff_95(both))
    assert dice(nothing, nothing, empty_value=1.0) == 1.0
    assert normalized_surface_dice(both, 2.0, empty_value=1.0) == 1.0
    assert hausdorff_95(both, empty_value=0.0) == 0.0
    for pred, truth in ((nothing, something), (something, nothing)):
        one = surface_distances(pred, truth, (1.0, 1.0, 1.0))
        assert dice(pred, truth, empty_value=1.0) == 0.0
        assert normalized_surface_dice(one, 2.0, empty_value=1.0) == 0.0
        assert hausdorff_95(one, empty_value=0.0) == math.inf
    flat = surface_distances(nothing[:1], something[1:2], (1.0, 1.0, 1.0))
    assert hausdorff_95(flat) == math.inf


def test_identical_masks_are_perfect() -> None:
    mask = blob(np.random.default_rng(1), (6, 20, 20))
    distances = surface_distances(mask, mask, (3.0, 1.0, 1.0))
    assert dice(mask, mask) == 1.0
    assert normalized_surface_dice(distances, 0.0) == 1.0
    assert hausdorff_95(distances) == 0.0


def test_dice_equals_monai() -> None:
    import torch
    from monai.metrics.meandice import compute_dice

    rng = np.random.default_rng(3)
    for _ in range(20):
        pred, truth = blob(rng, (4, 12, 13)), blob(rng, (4, 12, 13))
        tensors = [torch.from_numpy(m)[None, None].float() for m in (pred, truth)]
        assert dice(pred, truth) == pytest.approx(float(compute_dice(*tensors)), abs=1e-6)
    assert dice(np.ones((2, 2), bool), np.ones((2, 2), bool)) == 1.0


def test_no_warnings_and_far_specks_stay_exact() -> None:
    truth = box_mask((12, 64, 64), (2, 5, 5), (4, 9, 9))
    pred = truth.copy()
    pred[11, 63, 63] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surface_distances(pred, truth, (5.0, 0.8, 0.8))
    assert_equals_reference(pred, truth, (5.0, 0.8, 0.8))


@pytest.mark.parametrize("spacing", [(1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (math.nan, 1.0, 1.0)])
def test_bad_spacing_is_named(spacing: Spacing) -> None:
    mask = np.ones((2, 3, 4), bool)
    with pytest.raises(ValueError, match=r"spacing_mm .* \(z, y, x\)"):
        surface_distances(mask, mask, spacing)


def test_masks_of_different_grids_are_refused() -> None:
    # In tests the shape annotations refuse them first; without the hook this check does.
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        _check_shapes(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


def test_equals_surface_distance_on_real_labels(test_data: Path) -> None:
    """Each label of the real NIfTI and NRRD cases against itself moved by (1, 2, -1) voxels."""
    import SimpleITK

    folder = test_data / "CT" / "ivadomed_spleen"
    files = sorted(folder.rglob("*.nii*"))
    assert files, f"no volumes in {folder}"
    compared = 0
    for path in files:
        image = SimpleITK.ReadImage(str(path))
        if image.GetDimension() != 3:
            continue
        array = SimpleITK.GetArrayFromImage(image)
        ids = np.unique(array)
        if not 2 <= ids.size <= 8:
            continue
        spacing = tuple(float(s) for s in reversed(image.GetSpacing()))
        for label in ids[1:3]:
            truth = array == label
            pred = np.roll(truth, (1, 2, -1), axis=(0, 1, 2))
            assert_equals_reference(pred, truth, spacing)  # type: ignore[arg-type]
            compared += 1
    assert compared
