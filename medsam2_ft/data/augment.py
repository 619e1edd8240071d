"""Augmentation of uint8 slices and their label maps, at the size in which they are stored."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from medsam2_ft.errors import UserError


@dataclass(frozen=True)
class AugmentConfig:
    """What is varied and how much. Every ``*_p`` is a probability; 0 switches the change off.

    Attributes:
        flip_horizontal_p: Mirrors left and right. The model is prompted by boxes and never sees a
            label id, so mirroring anatomy is harmless here; switch it off where a side matters.
        flip_vertical_p: Mirrors up and down.
        affine_p: Rotates, scales and shifts.
        rotate_deg: Largest rotation to either side in degrees.
        scale: Scale factors range from ``1 - scale`` to ``1 + scale``.
        translate: Largest shift as a part of the side length.
        brightness_contrast_p: Changes brightness and contrast.
        brightness: Largest change of brightness as a part of 255.
        contrast: Contrast factors range from ``1 - contrast`` to ``1 + contrast``.
        gamma_p: Applies a power law.
        gamma: Exponents range from ``1 - gamma`` to ``1 + gamma``.
        noise_p: Adds Gaussian noise, the same to all colour channels.
        noise: Largest standard deviation as a part of 255.
    """

    flip_horizontal_p: float = 0.5
    flip_vertical_p: float = 0.0
    affine_p: float = 0.5
    rotate_deg: float = 15.0
    scale: float = 0.15
    translate: float = 0.05
    brightness_contrast_p: float = 0.3
    brightness: float = 0.15
    contrast: float = 0.15
    gamma_p: float = 0.2
    gamma: float = 0.3
    noise_p: float = 0.1
    noise: float = 0.04

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            UserError: If a probability or a strength is out of its range.
        """
        for name, value in vars(self).items():
            largest = 180.0 if name == "rotate_deg" else 1.0
            if not 0.0 <= value <= largest:
                raise UserError(f"data.augmentation.{name} is {value}; choose 0 to {largest:g}.")


class Augmenter:
    """Changes a slice and its label maps alike; a pure function of its seed.

    Args:
        config: What to vary.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self._compose = _build(config)

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w *c"],
        label_maps: Sequence[UInt8[np.ndarray, "h w"]],
        seed: int,
    ) -> tuple[UInt8[np.ndarray, "h w *c"], list[UInt8[np.ndarray, "h w"]]]:
        """Returns the changed slice and maps.

        Args:
            image: Gray or colour slice.
            label_maps: Maps on the same grid, moved by nearest neighbour; what enters from outside
                is 0. At least one.
            seed: 32 bits that decide everything.
        """
        self._compose.set_random_seed(seed)
        result: dict[str, Any] = self._compose(image=image, masks=list(label_maps))
        return result["image"], list(result["masks"])


def _build(config: AugmentConfig) -> Any:
    # Albumentations asks the network for a newer version when it is imported.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A  # noqa: N812 - its documented name

    c = config
    transforms = {
        "flip_horizontal_p": A.HorizontalFlip(p=c.flip_horizontal_p),
        "flip_vertical_p": A.VerticalFlip(p=c.flip_vertical_p),
        "affine_p": A.Affine(
            rotate=(-c.rotate_deg, c.rotate_deg),
            scale=(1 - c.scale, 1 + c.scale),
            translate_percent=(-c.translate, c.translate),
            p=c.affine_p,
        ),
        "brightness_contrast_p": A.RandomBrightnessContrast(
            brightness_limit=(-c.brightness, c.brightness),
            contrast_limit=(-c.contrast, c.contrast),
            p=c.brightness_contrast_p,
        ),
        "gamma_p": A.RandomGamma(
            gamma_limit=(100 * max(1 - c.gamma, 0.01), 100 * (1 + c.gamma)), p=c.gamma_p
        ),
        "noise_p": A.GaussNoise(std_range=(0.0, c.noise), per_channel=False, p=c.noise_p),
    }
    active = [transform for name, transform in transforms.items() if getattr(c, name) > 0]
    return A.Compose(active)
