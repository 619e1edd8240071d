"""Intensity rules against numpy.percentile and values worked out by hand."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import CT_WINDOWS, apply_rule, label_ids, parse_rule, rule_for_modality
from medsam2_ft.types import IntensityRule


@pytest.mark.parametrize(
    ("window", "bounds"),
    [
        (None, (-160, 240)),
        ("soft tissue", (-160, 240)),
        ("lung", (-910, 590)),
        ("Brain", (0, 80)),
        ("bone", (-500, 1300)),
        ((50.0, 100.0), (0, 100)),
        ("-600/1500", (-1350, 150)),
    ],
)
def test_ct_windows(window: Any, bounds: tuple[float, float]) -> None:
    assert rule_for_modality("CT", window) == IntensityRule("window", *(float(b) for b in bounds))


@pytest.mark.parametrize(
    ("modality", "dtype", "expected"),
    [
        ("MR", np.int16, IntensityRule("percentile", 0.5, 99.5)),
        ("PET", np.float32, IntensityRule("percentile", 0.5, 99.5)),
        ("ultrasound", np.uint8, IntensityRule("keep")),
        ("ultrasound", np.uint16, IntensityRule("minmax")),
        (None, np.uint8, IntensityRule("keep")),
    ],
)
def test_rules_of_the_other_modalities(
    modality: str | None, dtype: Any, expected: IntensityRule
) -> None:
    assert rule_for_modality(modality, dtype=dtype) == expected


def test_a_window_in_own_units_serves_any_modality() -> None:
    assert rule_for_modality("PET", (5.0, 10.0)) == IntensityRule("window", 0.0, 10.0)
    assert rule_for_modality(None, "lung").lower == -910


@pytest.mark.parametrize(
    "window", ["liver", "40", "40/0", "40/-5", "40/400/3", (1.0, float("nan")), "a/b"]
)
def test_unknown_windows_are_refused(window: Any) -> None:
    with pytest.raises(UserError, match="soft_tissue"):
        rule_for_modality("CT", window)


def test_a_ct_window_name_is_refused_for_another_modality() -> None:
    with pytest.raises(UserError, match="modality is MR"):
        rule_for_modality("MR", "lung")


def test_window_is_scaled_by_its_own_bounds_not_by_the_volume() -> None:
    image = np.array([[[-3024, -160, -60, 40, 140, 240, 3000]]], np.int16)
    result = apply_rule(image, rule_for_modality("CT"))
    np.testing.assert_array_equal(result[0, 0], [0, 0, 64, 128, 191, 255, 255])
    narrow = np.array([[[40, 50]]], np.int16)  # never stretched to the full range
    np.testing.assert_array_equal(apply_rule(narrow, rule_for_modality("CT"))[0, 0], [128, 134])


def test_percentile_matches_numpy_and_keeps_zero() -> None:
    rng = np.random.default_rng(0)
    image = rng.gamma(2.0, 100.0, size=(7, 30, 31)).astype(np.float32)
    image[:, :10] = 0
    result = apply_rule(image, rule_for_modality("MR"))
    low, high = np.percentile(image[image != 0].astype(np.float64), [0.5, 99.5])
    expected = np.rint((np.clip(image, low, high) - low) / (high - low) * 255)
    expected[image == 0] = 0
    assert np.abs(result - expected).max() <= 1
    assert (result != expected).mean() < 1e-3
    assert (result[image == 0] == 0).all()


def test_zero_stays_zero_between_negative_and_positive_values() -> None:
    image = np.array([[[-4.0, -2.0, 0.0, 2.0, 4.0]]], np.float32)
    result = apply_rule(image, IntensityRule("percentile", 0.0, 100.0))
    np.testing.assert_array_equal(result[0, 0], [0, 64, 0, 191, 255])


arrays = st.one_of(
    hnp.arrays(
        st.sampled_from([np.int16, np.int32, np.uint16, np.int8]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    ),
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
        elements=st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=True),
    ),
)


@settings(deadline=None)
@given(arrays, st.floats(0, 99), st.floats(0.5, 1))
def test_percentile_bounds_are_numpys(image: NDArray[Any], lower: float, share: float) -> None:
    from medsam2_ft.intensity import _percentiles_of_nonzero

    upper = lower + (100 - lower) * share
    values = image.astype(np.float32)
    values = values[values != 0].astype(np.float64)
    found = _percentiles_of_nonzero(image, (lower, upper))
    expected = np.percentile(values, [lower, upper]) if values.size else (0.0, 0.0)
    scale = np.abs(values).max() if values.size else 1.0
    np.testing.assert_allclose(found, expected, rtol=0, atol=scale * 1e-9)


@settings(deadline=None)
@given(arrays, st.sampled_from(["percentile", "minmax", "window"]))
def test_every_rule_is_monotone_and_stays_in_range(image: NDArray[Any], kind: Any) -> None:
    bounds = {"percentile": (0.5, 99.5), "minmax": (0.0, 0.0), "window": (-160.0, 240.0)}[kind]
    result = apply_rule(image, IntensityRule(kind, *bounds))
    assert result.dtype == np.uint8
    assert result.shape == image.shape
    values, mapped = image.ravel(), result.ravel()
    kept = values != 0 if kind == "percentile" else np.ones(values.shape, bool)
    order = np.argsort(values[kept], kind="stable")
    assert (np.diff(mapped[kept][order].astype(int)) >= 0).all()


def test_minmax_uses_the_own_range() -> None:
    image = np.array([[[100, 300]], [[200, 1100]]], np.uint16)
    np.testing.assert_array_equal(
        apply_rule(image, IntensityRule("minmax")).ravel(), [0, 51, 26, 255]
    )


def test_minmax_range_wider_than_float32() -> None:
    image = np.array([[[-3e38, 0, 3e38]]], np.float32)
    np.testing.assert_array_equal(apply_rule(image, IntensityRule("minmax")).ravel(), [0, 128, 255])


def test_keep_returns_uint8_as_it_is_and_scales_the_rest() -> None:
    image = np.array([[[3, 7]]], np.uint8)
    assert apply_rule(image, IntensityRule("keep")) is image
    wide = np.array([[[300, 700]]], np.uint16)
    np.testing.assert_array_equal(apply_rule(wide, IntensityRule("keep")).ravel(), [0, 255])


@pytest.mark.parametrize("kind", ["percentile", "minmax"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 0, 4), (0, 3, 4), (2, 3, 4, 3)])
def test_all_zero_and_empty_images(kind: Any, shape: tuple[int, ...]) -> None:
    result = apply_rule(np.zeros(shape, np.int16), IntensityRule(kind, 0.5, 99.5))
    assert result.shape == shape
    assert not result.any()


def test_constant_images() -> None:
    constant = np.full((2, 3, 4), 7, np.int16)
    assert not apply_rule(constant, IntensityRule("minmax")).any()
    object_on_zero = np.array([[[0, 7, 7, 7]]], np.int16)
    rule = rule_for_modality("PET")
    np.testing.assert_array_equal(apply_rule(object_on_zero, rule).ravel(), [0, 255, 255, 255])
    below = np.full((1, 1, 400), 7, np.int16)
    below[0, 0, 0] = 3  # rarer than the lower percentile
    np.testing.assert_array_equal(apply_rule(below, rule)[0, 0, :2], [0, 255])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("kind", ["window", "percentile", "minmax", "keep"])
def test_values_that_are_not_finite_are_refused(kind: Any, bad: float) -> None:
    image = np.ones((2, 2, 2))
    image[1, 1, 0] = bad
    with pytest.raises(UserError, match="nan_to_num"):
        apply_rule(image, IntensityRule(kind, 1.0, 2.0))


@pytest.mark.parametrize(
    "rule",
    [
        IntensityRule("window", 5.0, 5.0),
        IntensityRule("window", 5.0, float("inf")),
        IntensityRule("percentile", -1.0, 50.0),
        IntensityRule("percentile", 50.0, 101.0),
    ],
)
def test_rules_whose_bounds_are_no_range(rule: IntensityRule) -> None:
    with pytest.raises(UserError, match="intensity rule"):
        apply_rule(np.ones((1, 1, 1), np.int16), rule)


@pytest.mark.parametrize(
    "rule",
    [rule_for_modality("CT", name) for name in CT_WINDOWS]
    + [rule_for_modality("MR"), IntensityRule("keep"), IntensityRule("minmax")],
)
def test_a_rule_survives_its_json(rule: IntensityRule) -> None:
    assert parse_rule(rule.to_json()) == rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        '{"kind": "gamma"}',
        '{"kind": ["window"]}',
        '{"kind": "window", "lower": [1], "upper": 2}',
        '{"kind": "window", "lower": 3, "upper": 2}',
        json.dumps({"kind": "window", "lower": 0, "upper": 10**400}),
    ],
)
def test_texts_that_are_no_rule(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (json's own error is one, too)
        parse_rule(text)


def test_memory_stays_bounded() -> None:
    image = np.random.default_rng(0).normal(500, 100, size=(64, 128, 128)).astype(np.float32)
    for rule in (rule_for_modality("MR"), rule_for_modality("CT"), IntensityRule("minmax")):
        tracemalloc.start()
        apply_rule(image, rule)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < image.size + 8e6  # the uint8 result, and what does not grow with depth


def test_label_ids() -> None:
    label_map = np.zeros((3, 4, 4), np.uint16)
    assert label_ids(label_map) == ()
    label_map[2, 1, 1], label_map[0, 0, 0], label_map[2, 0, 0] = 41, 300, 2
    assert label_ids(label_map) == (2, 41, 300)
    assert all(type(i) is int for i in label_ids(label_map))
    assert label_ids(np.ones((2, 0, 3), np.uint8)) == ()
