"""Real slices and random models whose answers vary, for comparisons with Meta's predictors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medsam2_ft.sam2_adapter import Sam2, build_model


@pytest.fixture(scope="session")
def chest() -> NDArray[np.uint8]:
    """The chest CT that the demo trains on, cropped so that it is not square: (34, 128, 100)."""
    slicerio = pytest.importorskip("slicerio")
    sitk = pytest.importorskip("SimpleITK")
    path = Path(slicerio.__file__).parent / "data" / "CTChest4.nrrd"
    hounsfield = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32)
    window = np.clip((hounsfield + 1000) / 1400, 0, 1)
    return np.ascontiguousarray((window * 255).astype(np.uint8)[:, :, 14:114])


@pytest.fixture(scope="session")
def random_model() -> Callable[..., Sam2]:
    """Builds random models that always see an object.

    A random SAM2 may answer "no object"; every logit is then -1024 and any comparison passes.
    """

    def build(variant: str, image_size: int, seed: int = 1) -> Sam2:
        torch.manual_seed(seed)
        model = build_model(variant, image_size=image_size, weights="random")
        with torch.no_grad():
            model.core.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
        return model

    return build


def _assert_telling(logits: torch.Tensor) -> None:
    """Asserts that logits vary and that their mask is neither empty nor full."""
    assert torch.isfinite(logits).all()
    assert logits.min() > -1000
    assert logits.std() > 1e-3
    share = (logits > 0).float().mean()
    assert 0.02 < share < 0.98, f"the mask covers {share:.3f} of the image: compare another seed"


@pytest.fixture(scope="session")
def assert_telling() -> Callable[[torch.Tensor], None]:
    return _assert_telling


@pytest.fixture(scope="session")
def relative_error() -> Callable[[torch.Tensor, torch.Tensor], float]:
    """Largest difference over the range of the expected logits."""

    def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
        assert actual.shape == expected.shape
        span = expected.max() - expected.min()
        return float((actual - expected).abs().max() / span)

    return error
