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

from medsam2_ft.io import read_labels
from medsam2_ft.metrics import (
    MaskScores,
    SurfaceDistances,
    dice,
    hausdorff_95,
    nearest,
    normalized_surface_dice,
    pool_frames,
    score_labels,
    score_masks,
    surface_distances,
)
from medsam2_ft.metrics.distances import check_grids

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
    assert_equal_distances(
        surface_distances(pred, truth, spacing_mm), reference(pred, truth, spacing_mm)
    )
    assert dice(pred, truth) == surface_distance.compute_dice_coefficient(truth, pred)


def assert_equal_distances(ours: SurfaceDistances, theirs: dict[str, Any]) -> None:
    for (distances, areas), (way, owner) in zip(
        (
            (ours.truth_to_pred_mm, ours.truth_areas_mm2),
            (ours.pred_to_truth_mm, ours.pred_areas_mm2),
        ),
        (("gt_to_pred", "gt"), ("pred_to_gt", "pred")),
        strict=True,
    ):
        expected, expected_areas = theirs[f"distances_{way}"], theirs[f"surfel_areas_{owner}"]
        np.testing.assert_allclose(distances, expected, rtol=1e-14)
        # Equal distances that rounding tells apart may be sorted differently.
        order = np.lexsort((areas, distances.round(9)))
        expected_order = np.lexsort((expected_areas, expected.round(9)))
        np.testing.assert_allclose(areas[order], expected_areas[expected_order], rtol=1e-12)
    for tolerance_mm in (0.0, 0.5, 2.0, 3.7):
        # Where distances equal the tolerance, rounding decides on their side.
        low, high = (
            surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance_mm * factor)
            for factor in (1 - 1e-12, 1 + 1e-12)
        )
        nsd = normalized_surface_dice(ours, tolerance_mm)
        assert low - 1e-12 <= nsd <= high + 1e-12
    hd95_mm = surface_distance.compute_robust_hausdorff(theirs, 95)
    assert hausdorff_95(ours) == pytest.approx(hd95_mm, rel=1e-14)


def blob(rng: np.random.Generator, shape: tuple[int, int, int]) -> Mask:
    """A smooth random mask that may touch the border and have several parts."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(rng.standard_normal(shape), sigma=rng.uniform(0.5, 2.5))
    return np.asarray(field > np.quantile(field, rng.uniform(0.5, 0.98)))


@pytest.mark.parametrize("seed", range(200))
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


def box_mask(shape: tuple[int, int, int], start: tuple[int, int, int], size: Any) -> Mask:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def far_masks() -> dict[str, tuple[Mask, Mask]]:
    shape = (30, 60, 60)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    small = (z - 15) ** 2 + (y - 30) ** 2 + (x - 30) ** 2 < 9
    large = 4 * (z - 15) ** 2 + (y - 30) ** 2 + (x - 30) ** 2 < 28**2
    specks = np.random.default_rng(5).random(shape) < 1e-4
    full = np.ones(shape, bool)
    left = large & (x < 12)
    return {
        "a small one inside a large one": (small, large),
        "a speck far from a large one": (box_mask(shape, (0, 0, 0), (1, 1, 1)), large),
        "a part is missing": (large & (x < 38), large),
        "everything is marked": (full, small),
        "specks": (specks, np.roll(specks, (9, 17, 5), axis=(0, 1, 2))),
        "apart": (left, left[:, :, ::-1]),
    }


@pytest.mark.parametrize("corners_per_query", [0, 300], ids=["tree", "as chosen"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.8, 0.8), (0.3, 0.7, 9.0)])
@pytest.mark.parametrize("name", list(far_masks()))
def test_equals_surface_distance_on_masks_that_are_far_apart(
    name: str, spacing: Spacing, corners_per_query: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "_CORNERS_PER_QUERY", corners_per_query)
    assert_equals_reference(*far_masks()[name], spacing)


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


@pytest.mark.parametrize("seed", range(200))
def test_dice_equals_monai(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pred, truth = blob(rng, (4, 12, 13)), blob(rng, (4, 12, 13))
    assert dice(pred, truth) == pytest.approx(monai_dice(pred, truth), rel=1e-6)


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
        check_grids(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


def perturbed(mask: Mask, seed: int) -> list[Mask]:
    """What predictions get wrong: place, outline, parts missing, parts too many."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    soft = gaussian_filter(mask.astype(np.float32), 1.5)
    noise = gaussian_filter(rng.standard_normal(mask.shape).astype(np.float32), 2.0)
    cut = mask.copy()
    layers = np.flatnonzero(mask.any(axis=(1, 2)))
    cut[: layers[len(layers) // 3]] = False
    extra = mask.copy()
    extra[tuple(int(rng.integers(n)) for n in mask.shape)] = True
    shifted = np.roll(mask, rng.integers(-3, 4, size=3), axis=(0, 1, 2))
    return [shifted, soft + 0.3 * noise / noise.std() > 0.5, cut, extra]


def monai_dice(pred: Mask, truth: Mask) -> float:
    import torch
    from monai.metrics.meandice import compute_dice

    return float(compute_dice(*(torch.from_numpy(m)[None, None].float() for m in (pred, truth))))


def assert_equals_both(truth: Mask, spacing_mm: Spacing, seed: int) -> None:
    for pred in perturbed(truth, seed):
        assert_equals_reference(pred, truth, spacing_mm)
        assert dice(pred, truth) == pytest.approx(monai_dice(pred, truth), rel=1e-6)


def test_equals_both_on_a_real_label(test_data: Path) -> None:
    volume = read_labels(test_data / "CT" / "ivadomed_spleen" / "sub-spleen2_ct_seg-manual.nii.gz")
    assert_equals_both(volume.maps[0] > 0, volume.geometry.spacing_mm, seed=0)


LABEL_FILES = ("*_mask.nii.gz", "*seg*.nii.gz", "*_label.nrrd", "*.seg.nrrd", "OT*.nii.gz",
               "brainmask.nii.gz", "labels/case*.nii.gz")  # fmt: skip


@pytest.mark.slow
def test_equals_both_on_all_real_labels(test_data: Path) -> None:
    files = sorted({f for pattern in LABEL_FILES for f in test_data.rglob(pattern)})
    compared = 0
    for path in files:
        volume = read_labels(path)
        for label_map in volume.maps:
            for label in np.unique(label_map[label_map > 0]):
                mask = label_map == label
                assert_equals_both(mask, volume.geometry.spacing_mm, seed=int(label))
                compared += 1
    assert len(files) >= 18
    assert compared >= 101


def label_maps(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels 1, 2, 3 and 7 in the truth, 1, 2, 3 and 9 in the prediction; 40 slices."""
    truth, pred = np.zeros((2, 40, 30, 31), np.uint8)
    for label, (a, b) in {1: (1, 1), 2: (2, 2), 3: (3, 3), 4: (7, 9)}.items():
        box = (slice(8 * label - 6, 8 * label + 6), slice(2, 28), slice(3, 31))
        mask = blob(rng, (12, 26, 28))
        truth[box][mask] = a
        pred[box][np.roll(mask, 1, axis=2)] = b
    return pred, truth


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize("planar", [False, True])
def test_labels_of_a_volume_are_scored_like_masks(dtype: Any, planar: bool) -> None:
    pred, truth = (m.astype(dtype) for m in label_maps(np.random.default_rng(0)))
    spacing, tolerances = (3.0, 0.8, 1.0), (1.0, 2.0, 4.0)
    scores = score_labels(pred, truth, spacing, tolerances, planar=planar)
    assert list(scores) == [1, 2, 3, 7, 9]
    for label, score in scores.items():
        masks = pred == label, truth == label
        distances = surface_distances(*masks, spacing, planar=planar)
        nsd = tuple(normalized_surface_dice(distances, mm) for mm in tolerances)
        expected = MaskScores(dice(*masks), nsd, hausdorff_95(distances))
        assert score == expected == score_masks(*masks, spacing, tolerances, planar=planar)
    assert len({score.nsd for score in scores.values()}) >= 3
    assert scores[7] == scores[9] == MaskScores(0.0, (0.0, 0.0, 0.0), math.inf)
    # The same memory seen otherwise gives the same scores.
    turned = score_labels(
        np.asfortranarray(pred), np.asfortranarray(truth), spacing, tolerances, planar=planar
    )
    assert turned == scores


def test_labels_that_are_asked_for_and_absent() -> None:
    pred, truth = label_maps(np.random.default_rng(1))
    some = score_labels(pred, truth, (1.0, 1.0, 1.0), labels=[5, 2])
    assert list(some) == [2, 5]
    assert 0 < some[2].dsc < 1
    assert all(math.isnan(v) for v in (some[5].dsc, *some[5].nsd, some[5].hd95_mm))
    counted = score_labels(pred, truth, (1.0, 1.0, 1.0), labels=[5, 7], empty="perfect")
    assert counted == {5: MaskScores(1.0, (1.0,), 0.0), 7: MaskScores(0.0, (0.0,), math.inf)}
    assert score_labels(pred * 0, truth * 0, (1.0, 1.0, 1.0)) == {}
    with pytest.raises(ValueError, match="positive"):
        score_labels(pred, truth, (1.0, 1.0, 1.0), labels=[0])


@pytest.mark.parametrize("value", [-1, 65536])
def test_label_ids_out_of_range_are_refused(value: int) -> None:
    labels = np.zeros((2, 3, 4), np.int32)
    labels[1, 1, 1] = value
    with pytest.raises(ValueError, match="0 to 65535"):
        score_labels(labels, labels, (1.0, 1.0, 1.0))


def test_frames_are_compared_one_by_one_and_put_together() -> None:
    rng = np.random.default_rng(4)
    pred, truth = (np.stack([blob(rng, (1, 40, 42))[0] for _ in range(9)]) for _ in range(2))
    pred[3], truth[5], pred[6], truth[6] = False, False, False, False
    truth[7] = np.roll(pred[7], 1, axis=0)
    pred[8], truth[8] = False, False
    pred[8, 3, 3] = truth[8, 38, 39] = True
    spacing = (77.0, 0.7, 1.5)
    ours = pool_frames(pred, truth, spacing)
    frames = [
        surface_distances(p[None], t[None], spacing) for p, t in zip(pred, truth, strict=True)
    ]
    for z in (0, 1, 2, 4, 7, 8):
        assert_equals_reference(pred[z : z + 1], truth[z : z + 1], spacing)
    for name in ("truth_to_pred_mm", "truth_areas_mm2", "pred_to_truth_mm", "pred_areas_mm2"):
        joined = np.sort(np.concatenate([getattr(frame, name) for frame in frames]))
        np.testing.assert_array_equal(np.sort(getattr(ours, name)), joined)
    for distances in (ours.truth_to_pred_mm, ours.pred_to_truth_mm):
        assert np.isinf(distances).any()
        assert (np.diff(distances[np.isfinite(distances)]) >= 0).all()


def test_extreme_spacing_stays_exact() -> None:
    rng = np.random.default_rng(8)
    pred, truth = blob(rng, (6, 30, 30)), blob(rng, (6, 30, 30))
    for spacing in ((100.0, 0.1, 0.1), (0.001, 1.0, 1000.0)):
        assert_equals_reference(pred, truth, spacing)


@pytest.mark.parametrize("thinned", [False, True], ids=["many far", "few far"])
def test_long_contours_are_compared_within_their_frame_only(thinned: bool) -> None:
    """Nearer contours in the next frames must not count; each frame has thousands of elements."""
    rng = np.random.default_rng(6)
    truth = rng.random((3, 120, 150)) < 0.4
    truth[1, :, 40:] = False
    pred = np.roll(truth, 1, axis=0)
    if thinned:
        pred &= rng.random(pred.shape) < 0.002
    spacing = (0.5, 0.7, 1.5)
    pooled = pool_frames(pred, truth, spacing)
    frames = [reference(p[None], t[None], spacing) for p, t in zip(pred, truth, strict=True)]
    assert all(frame["distances_gt_to_pred"].size > 1024 for frame in frames)
    for ours, way in (
        (pooled.truth_to_pred_mm, "distances_gt_to_pred"),
        (pooled.pred_to_truth_mm, "distances_pred_to_gt"),
    ):
        expected = np.sort(np.concatenate([frame[way] for frame in frames]))
        np.testing.assert_allclose(ours, expected, rtol=1e-14)
