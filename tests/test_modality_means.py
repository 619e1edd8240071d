import math

import pytest
import torch

from medsam2_ft.data.index import MODALITY_NAMES
from medsam2_ft.modality_means import ModalityMeans

CT, PET, UNKNOWN = (MODALITY_NAMES.index(name) for name in ("CT", "PET", "unknown"))


def means() -> ModalityMeans:
    return ModalityMeans(("loss", "dsc"), by_modality=("dsc",))


def test_means_of_all_prompts_and_by_modality() -> None:
    metric = means()
    nan = math.nan
    metric.update(
        torch.tensor([CT, PET, CT]),
        {"loss": torch.tensor([1.0, 2.0, 6.0]), "dsc": torch.tensor([0.5, nan, 0.7])},
    )
    metric.update(torch.tensor([PET]), {"loss": torch.tensor([3.0]), "dsc": torch.tensor([0.1])})
    found = metric.compute()
    assert found == pytest.approx({"loss": 3.0, "dsc": 1.3 / 3, "CT/dsc": 0.6, "PET/dsc": 0.1})
    metric.reset()
    assert all(math.isnan(value) for value in metric.compute().values())


def test_a_modality_that_nobody_states_has_no_name_of_its_own() -> None:
    metric = means()
    one = {"loss": torch.tensor([1.0]), "dsc": torch.tensor([0.5])}
    metric.update(torch.tensor([UNKNOWN]), one)
    assert set(metric.compute()) == {"loss", "dsc"}
    metric.update(torch.tensor([CT]), one)
    assert set(metric.compute()) == {"loss", "dsc", "CT/dsc", "unknown/dsc"}


def test_a_loss_that_is_nan_shows_and_stays_in_its_modality() -> None:
    metric = ModalityMeans(("loss",), by_modality=("loss",))
    metric.update(torch.tensor([CT, PET]), {"loss": torch.tensor([math.nan, 2.0])})
    found = metric.compute()
    assert math.isnan(found["loss"])
    assert math.isnan(found["CT/loss"])
    assert found["PET/loss"] == 2.0
