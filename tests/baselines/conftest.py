"""Random models whose masks vary, and real slices that are not square."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from medsam2_ft.baselines import load_baseline
from medsam2_ft.slice_model import SliceModel

pytest.importorskip("segment_anything")


def _shaken(name: str, seed: int = 2, strength: float = 0.05) -> SliceModel:
    """A random model; also the parameters that start at zero, such as positions, are random."""
    torch.manual_seed(seed)
    model = load_baseline(f"random:{name}")
    with torch.no_grad():
        for parameter in model.core.parameters():
            parameter.add_(strength * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="session")
def shaken() -> Callable[..., SliceModel]:
    return _shaken


@pytest.fixture(scope="session")
def colour(test_data: Path) -> NDArray[np.uint8]:
    """An ultrasound picture in colour, 610 x 646."""
    with Image.open(test_data / "ultrasound/busi/images/10026.png") as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="session")
def volume(test_data: Path) -> NDArray[np.uint8]:
    """CT slices, gray and higher than they are wide: (z, 430, 300)."""
    path = test_data / "CT/medsam2_recist_npz/CT_Lesion_000001_02_01_008-023.npz"
    with np.load(path) as case:
        return np.ascontiguousarray(case["imgs"][:, 40:470, 90:390])


def _assert_telling(logits: torch.Tensor) -> None:
    assert torch.isfinite(logits).all()
    assert logits.std() > 1e-3
    share = (logits > 0).float().mean()
    assert 0.02 < share < 0.98, f"the mask covers {share:.3f} of the image: take another seed"


@pytest.fixture(scope="session")
def assert_telling() -> Callable[[torch.Tensor], None]:
    return _assert_telling
