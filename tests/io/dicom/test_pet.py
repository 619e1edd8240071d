"""SUV of PET, against numbers worked out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import SECRET, along_z, series, volume_of
from pydicom.dataset import Dataset

from medsam2_ft.io.dicom import read_series

HALF_LIFE = 6588.0  # 18F
STORED = volume_of(dtype=np.uint16)


def _pet(z: int, dataset: Dataset) -> None:
    """70 kg, 350 MBq given at 09:15:00, scanned at 10:15:00."""
    dataset.Units, dataset.DecayCorrection = "BQML", "START"
    dataset.CorrectedImage = ["ATTN", "DECY"]
    dataset.AcquisitionDate, dataset.AcquisitionTime = "20200102", "101500"
    dataset.PatientWeight = "70"
    dataset.RescaleSlope, dataset.RescaleIntercept = str(10.0 + z), "0"
    drug = Dataset()
    drug.RadionuclideTotalDose = "350000000"
    drug.RadionuclideHalfLife = str(HALF_LIFE)
    drug.RadiopharmaceuticalStartTime = "091500.00"
    dataset.RadiopharmaceuticalInformationSequence = [drug]


def _read(tmp_path: Path, change: Callable[[Dataset], None] = lambda dataset: None) -> Any:
    def both(z: int, dataset: Dataset) -> None:
        _pet(z, dataset)
        change(dataset)

    read = read_series(series(tmp_path, STORED, along_z(5), both, modality="PT"))
    assert not any(SECRET in note or "2020" in note for note in read.notes)
    return read


def _activity() -> Any:
    return STORED * (10.0 + np.arange(5))[:, None, None]


def _expect(read: Any, seconds: float, factor: float = 1.0) -> None:
    dose = 350e6 * 0.5 ** (seconds / HALF_LIFE)
    assert read.array.dtype == np.float32
    np.testing.assert_allclose(read.array, _activity() * factor * 70000 / dose, rtol=1e-6)
    assert read.notes == ("PET values are SUV by body weight",)
    assert read.modality == "PET"


def _drug(dataset: Dataset) -> Dataset:
    drug: Dataset = dataset.RadiopharmaceuticalInformationSequence[0]
    return drug


def test_one_number_by_hand(tmp_path: Path) -> None:
    # 5000 Bq/ml, 70 kg, 350 MBq decayed for one half life to 175 MBq: 5000 * 70000 / 175e6 = 2
    def change(dataset: Dataset) -> None:
        _drug(dataset).RadionuclideHalfLife = "3600"
        dataset.RescaleSlope = "20"
        dataset.PixelData = np.full((6, 7), 250, np.uint16).tobytes()

    np.testing.assert_allclose(_read(tmp_path, change).array, 2.0, rtol=1e-6)


def test_decay_to_the_start_of_the_series(tmp_path: Path) -> None:
    _expect(_read(tmp_path), 3600)


def test_decay_to_the_injection(tmp_path: Path) -> None:
    _expect(_read(tmp_path, lambda dataset: setattr(dataset, "DecayCorrection", "ADMIN")), 0)


def test_series_made_after_the_acquisition(tmp_path: Path) -> None:
    _expect(_read(tmp_path, lambda dataset: setattr(dataset, "SeriesTime", "180000")), 3600)


def test_scan_time_of_ge(tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        dataset.SeriesTime = "180000"
        block = dataset.private_block(0x0009, "GEMS_PETD_01", create=True)
        block.add_new(0x0D, "DT", "20200102100500.00")

    _expect(_read(tmp_path, change), 50 * 60)


def test_injection_before_midnight(tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        dataset.SeriesTime = dataset.AcquisitionTime = "003000"
        _drug(dataset).RadiopharmaceuticalStartTime = "234500"

    _expect(_read(tmp_path, change), 45 * 60)


def test_injection_with_a_date(tmp_path: Path) -> None:
    def change(dataset: Dataset) -> None:
        _drug(dataset).RadiopharmaceuticalStartDateTime = "20200101234500.50"

    _expect(_read(tmp_path, change), 10.5 * 3600 - 0.5)


def test_philips_counts(tmp_path: Path) -> None:
    def counts(tag: int, value: str) -> Callable[[Dataset], None]:
        def change(dataset: Dataset) -> None:
            dataset.Units = "CNTS"
            block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)
            block.add_new(tag, "DS", value)

        return change

    suv = _read(tmp_path / "suv", counts(0x00, "0.001"))
    np.testing.assert_allclose(suv.array, _activity() * 0.001, rtol=1e-6)
    _expect(_read(tmp_path / "activity", counts(0x09, "1.5")), 3600, 1.5)


def test_values_that_are_suv_already(tmp_path: Path) -> None:
    read = _read(tmp_path, lambda dataset: setattr(dataset, "Units", "GML"))
    np.testing.assert_allclose(read.array, _activity(), rtol=1e-6)
    assert read.notes == ("PET values are SUV (BW) as stored",)


@pytest.mark.parametrize(
    ("keyword", "value", "named"),
    [
        ("PatientWeight", None, "PatientWeight"),
        ("PatientWeight", "0", "PatientWeight"),
        ("Units", "PROPCPS", "Units"),
        ("Units", "CNTS", "Units"),
        ("CorrectedImage", ["ATTN"], "CorrectedImage"),
        ("DecayCorrection", "NONE", "DecayCorrection"),
        ("RadiopharmaceuticalInformationSequence", None, "RadionuclideTotalDose"),
        ("RadionuclideTotalDose", None, "RadionuclideTotalDose"),
        ("RadionuclideHalfLife", None, "RadionuclideHalfLife"),
        ("RadiopharmaceuticalStartTime", None, "RadiopharmaceuticalStartTime"),
        ("RadiopharmaceuticalStartDateTime", "20200103101500", "injection is not before"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, keyword: str, value: Any, named: str) -> None:
    def change(dataset: Dataset) -> None:
        target = _drug(dataset) if keyword.startswith("Radio") and "Seq" not in keyword else dataset
        if value is None:
            delattr(target, keyword)
        else:
            setattr(target, keyword, value)

    read = _read(tmp_path, change)
    np.testing.assert_allclose(read.array, _activity(), rtol=1e-6)
    assert len(read.notes) == 1
    assert named in read.notes[0]
    assert "not SUV" in read.notes[0]
