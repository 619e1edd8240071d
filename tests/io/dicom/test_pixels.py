"""Values of DICOM images: rescale, depth, colour, frames."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import (
    along_z,
    base,
    cine,
    enhanced,
    image,
    put_pixels,
    refused,
    save,
    series,
    volume_of,
)
from pydicom.dataset import Dataset

from medsam2_ft.io.dicom import read_series


def _read(dataset: Dataset, tmp_path: Path) -> Any:
    return read_series([save(dataset, tmp_path / "one")])


def test_ct_rescale_stays_int16(tmp_path: Path) -> None:
    stored = volume_of((5, 6, 7), np.uint16)

    def rescale(z: int, dataset: Dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"

    read = read_series(series(tmp_path, stored, along_z(5), rescale))
    assert read.array.dtype == np.int16
    np.testing.assert_array_equal(read.array, stored.astype(int) - 1024)


def test_array_is_widened_where_a_later_slice_asks_for_it(tmp_path: Path) -> None:
    stored = volume_of((5, 6, 7), np.uint16)
    stored[3, 0, 0] = 65535

    def rescale(z: int, dataset: Dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-10"

    read = read_series(series(tmp_path, stored, along_z(5), rescale))
    assert read.array.dtype == np.int32
    np.testing.assert_array_equal(read.array, stored.astype(int) - 10)


def test_rescale_of_each_slice(tmp_path: Path) -> None:
    def rescale(z: int, dataset: Dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = str(0.5 + z), "0.25"

    read = read_series(series(tmp_path, volume_of(), along_z(5), rescale, modality="MR"))
    slopes = (0.5 + np.arange(5))[:, None, None]
    assert read.array.dtype == np.float32
    np.testing.assert_allclose(read.array, volume_of() * slopes + 0.25, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_values_without_rescale_keep_their_type(tmp_path: Path, dtype: Any) -> None:
    read = read_series(series(tmp_path, volume_of(dtype=dtype), along_z(5)))
    assert read.array.dtype == dtype
    np.testing.assert_array_equal(read.array, volume_of(dtype=dtype))


@pytest.mark.parametrize("signed", [False, True])
def test_bits_beside_the_value_are_not_part_of_it(tmp_path: Path, signed: bool) -> None:
    value = np.array([[-2048, -1], [0, 2047]] if signed else [[0, 1], [2048, 4095]])
    stored = ((value & 0x0FFF) | 0xA000).astype(np.uint16)  # an overlay in the upper bits
    dataset = image(stored)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.PixelRepresentation = int(signed)
    np.testing.assert_array_equal(_read(dataset, tmp_path).array[0], value)


def test_monochrome1(tmp_path: Path) -> None:
    stored = np.array([[0, 1], [1000, 4095]], np.uint16)
    dataset = put_pixels(base(modality="DX"), stored, "MONOCHROME1")
    dataset.BitsStored, dataset.HighBit = 12, 11
    read = _read(dataset, tmp_path)
    np.testing.assert_array_equal(read.array[0], 4095 - stored)
    assert any("inverted" in note for note in read.notes)
    signed = put_pixels(base(modality="DX"), np.array([[-5, 7]], np.int16), "MONOCHROME1")
    np.testing.assert_array_equal(_read(signed, tmp_path).array[0], [[4, -8]])


def test_hounsfield_units_are_not_inverted(tmp_path: Path) -> None:
    dataset = image(volume_of()[0])
    dataset.PhotometricInterpretation = "MONOCHROME1"
    read = _read(dataset, tmp_path)
    np.testing.assert_array_equal(read.array[0], volume_of()[0])
    assert any("MONOCHROME1" in note for note in read.notes)


def test_padding_is_noted(tmp_path: Path) -> None:
    stored = volume_of()[0]
    stored[0, :3] = -2000
    dataset = image(stored)
    dataset.PixelPaddingValue = -2000
    dataset["PixelPaddingValue"].VR = "SS"
    assert any(note.startswith("3 values are padding") for note in _read(dataset, tmp_path).notes)


def test_modality_table(tmp_path: Path) -> None:
    dataset = put_pixels(base(modality="DX"), np.array([[0, 1], [2, 3]], np.uint8))
    table = Dataset()
    table.LUTDescriptor = [4, 0, 16]
    table.LUTData = [10, 500, 501, 9000]
    table["LUTData"].VR = "US"
    dataset.ModalityLUTSequence = [table]
    np.testing.assert_array_equal(_read(dataset, tmp_path).array[0], [[10, 500], [501, 9000]])


def test_colour(tmp_path: Path) -> None:
    colour = volume_of((6, 7, 3), np.uint8)
    read = _read(put_pixels(base(modality="ES"), colour, "RGB"), tmp_path)
    np.testing.assert_array_equal(read.array, colour[None])
    assert read.modality == "endoscopy"
    planar = put_pixels(base(modality="ES"), colour, "RGB")
    planar.PlanarConfiguration = 1
    planar.PixelData = np.moveaxis(colour, -1, 0).tobytes()
    np.testing.assert_array_equal(_read(planar, tmp_path).array, colour[None])
    deep = put_pixels(base(modality="ES"), colour.astype(np.uint16) * 257, "RGB")
    np.testing.assert_array_equal(_read(deep, tmp_path).array, colour[None])


def test_unknown_colours(tmp_path: Path) -> None:
    dataset = put_pixels(base(modality="ES"), volume_of((6, 7, 3), np.uint8), "YBR_PARTIAL_420")
    refused(save(dataset, tmp_path / "one"), "YBR_PARTIAL_420")


def test_labels_are_no_image(tmp_path: Path) -> None:
    dataset = image(volume_of()[0], modality="RTDOSE")
    refused(save(dataset, tmp_path / "one"), "is no image")


def test_luminance_and_chrominance(tmp_path: Path) -> None:
    from PIL import Image

    ybr = np.zeros((2, 2, 3), np.uint8)
    ybr[..., 0], ybr[..., 1], ybr[..., 2] = 120, 90, 200
    read = _read(put_pixels(base(modality="US"), ybr, "YBR_FULL"), tmp_path)
    expected = np.asarray(Image.fromarray(ybr, "YCbCr").convert("RGB")).astype(int)
    assert np.abs(read.array[0] - expected).max() <= 1


def test_palette(tmp_path: Path) -> None:
    dataset = put_pixels(base(modality="US"), np.array([[0, 1], [2, 1]], np.uint8), "PALETTE COLOR")
    for name, values in {"Red": [0, 255, 10], "Green": [0, 128, 20], "Blue": [9, 0, 30]}.items():
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [3, 0, 16])
        data = (np.array(values, np.uint16) * 257).tobytes()
        setattr(dataset, f"{name}PaletteColorLookupTableData", data)
    read = _read(dataset, tmp_path)
    assert read.array.dtype == np.uint8
    np.testing.assert_array_equal(
        read.array[0], [[[0, 0, 9], [255, 128, 0]], [[10, 20, 30], [255, 128, 0]]]
    )


def test_enhanced_frames_are_placed_by_their_positions(tmp_path: Path) -> None:
    volume = volume_of()
    order = [3, 0, 4, 1, 2]
    slopes = [1.0, 2.0, 3.0, 4.0, 5.0]
    places = along_z(5)
    dataset = enhanced(volume[order], [places[z] for z in order], slopes=[slopes[z] for z in order])
    read = _read(dataset, tmp_path)
    np.testing.assert_array_equal(read.array, volume * np.arange(1, 6)[:, None, None])
    assert read.geometry.origin_mm == (-10.0, 20.0, 5.0)
    assert read.geometry.spacing_mm == (2.0, 0.5, 0.25)
    assert (read.is_video, read.has_geometry) == (False, True)


def test_ultrasound_cine_is_a_video(tmp_path: Path) -> None:
    frames = volume_of((5, 6, 7, 3), np.uint8)
    read = _read(cine(frames), tmp_path)
    np.testing.assert_array_equal(read.array, frames)
    assert (read.is_video, read.has_geometry, read.modality) == (True, False, "ultrasound")


def test_whole_slide_and_odd_samples(tmp_path: Path) -> None:
    dataset = cine(volume_of((2, 6, 7, 3), np.uint8))
    dataset.TotalPixelMatrixColumns = 14
    refused(save(dataset, tmp_path / "one"), "whole slide")
    dataset = cine(volume_of((2, 6, 7, 3), np.uint8))
    dataset.SamplesPerPixel = 4
    refused(save(dataset, tmp_path / "two"), "4 samples per pixel")


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    refused(tmp_path / "text", "cannot be read")
    (tmp_path / "empty").write_bytes(b"")
    refused(tmp_path / "empty", "cannot be read")
