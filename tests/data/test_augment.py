import dataclasses
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam2_ft.data.augment import AugmentConfig, Augmenter
from medsam2_ft.errors import UserError

SWITCHES = [f.name for f in dataclasses.fields(AugmentConfig) if f.name.endswith("_p")]
OFF = dict.fromkeys(SWITCHES, 0.0)
EVERYTHING = Augmenter(AugmentConfig(**dict.fromkeys(SWITCHES, 1.0)))


def picture(colour: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc off the centre, and the same disc as a label."""
    rows, columns = np.mgrid[:60, :80]
    disc = (rows - 20) ** 2 + (columns - 30) ** 2 < 100
    image = np.where(disc, 180, 40).astype(np.uint8)
    return (np.stack([image] * 3, axis=-1) if colour else image), disc.astype(np.uint8) * 7


def test_everything_off_changes_nothing() -> None:
    image, labels = picture()
    changed, maps = Augmenter(AugmentConfig(**OFF))(image, [labels], 3)
    np.testing.assert_array_equal(changed, image)
    np.testing.assert_array_equal(maps[0], labels)


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_change_has_its_own_switch(switch: str) -> None:
    image, labels = picture()
    augmenter = Augmenter(AugmentConfig(**{**OFF, switch: 1.0}))
    results = [augmenter(image, [labels], seed) for seed in range(8)]
    assert any((changed != image).any() for changed, _ in results)
    moves = switch in {"flip_horizontal_p", "flip_vertical_p", "affine_p"}
    assert any((maps[0] != labels).any() for _, maps in results) == moves


@pytest.mark.parametrize("switch", ["flip_horizontal_p", "flip_vertical_p"])
def test_flips_are_numpys(switch: str) -> None:
    image, labels = picture(colour=True)
    changed, maps = Augmenter(AugmentConfig(**{**OFF, switch: 1.0}))(image, [labels, labels], 0)
    axis = 1 if switch == "flip_horizontal_p" else 0
    np.testing.assert_array_equal(changed, np.flip(image, axis))
    for label_map in maps:
        np.testing.assert_array_equal(label_map, np.flip(labels, axis))


@pytest.mark.parametrize("colour", [False, True])
def test_image_and_label_map_move_together(colour: bool) -> None:
    image, labels = picture(colour)
    moving = {"affine_p": 1.0, "flip_horizontal_p": 0.5}
    augmenter = Augmenter(AugmentConfig(**{**OFF, **moving}))
    for seed in range(10):
        changed, maps = augmenter(image, [labels], seed)
        gray = changed if changed.ndim == 2 else changed[..., 0]
        bright, disc = gray > 110, maps[0] == 7
        overlap = 2 * (bright & disc).sum() / (bright.sum() + disc.sum())
        assert overlap > 0.95
        assert set(np.unique(maps[0])) <= {0, 7}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 1000), max_size=3))
def test_result_depends_on_the_seed_alone(seed: int, before: list[int]) -> None:
    image, labels = picture()
    first = EVERYTHING(image, [labels], seed)
    for other in before:
        EVERYTHING(image, [labels], other)
    again = EVERYTHING(image, [labels], seed)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1][0], again[1][0])


def test_input_is_left_alone() -> None:
    image, labels = picture()
    kept = image.copy(), labels.copy()
    EVERYTHING(image, [labels], 1)
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(labels, kept[1])


@pytest.mark.parametrize(
    "wrong", [{"noise_p": 1.5}, {"scale": -0.1}, {"rotate_deg": 200.0}, {"gamma": float("nan")}]
)
def test_wrong_strength_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"data.augmentation.{next(iter(wrong))} is"):
        AugmentConfig(**wrong)


def test_importing_asks_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_ALBUMENTATIONS_UPDATE")  # set by the import above
    Augmenter(AugmentConfig())
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
