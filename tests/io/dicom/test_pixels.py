"""Values of DICOM images: rescale, depth, colour, compression, and sizes that lie."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gdcm
import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import (
    SECRET,
    along_z,
    base,
    cine,
    enhanced,
    image,
    put_pixels,
    save,
    series,
    volume_of,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medsam2_ft.errors import UserError
from medsam2_ft.io.dicom import read_series


def _read(dataset: Dataset, tmp_path: Path) -> Any:
    return read_series([save(dataset, tmp_path / "one")])


def _refused(path: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        read_series([path])
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


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


def test_high_throughput_jpeg2000(tmp_path: Path) -> None:
    stored = volume_of((20, 30), np.uint16)
    dataset = image(stored)
    dataset.PixelData = encapsulate([imagecodecs.htj2k_encode(stored, reversible=True)])
    dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
    np.testing.assert_array_equal(_read(dataset, tmp_path).array[0], stored)


def test_jpeg_in_colour(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8) * 2
    colour = np.stack([smooth, 255 - smooth, np.full_like(smooth, 60)], -1)
    for photometric, space in (("YBR_FULL", "YCBCR"), ("RGB", "RGB")):
        dataset = cine(np.stack([colour] * 3), photometric)
        data = imagecodecs.jpeg8_encode(
            colour, level=98, colorspace="RGB", outcolorspace=space, subsampling="444"
        )
        dataset.PixelData = encapsulate([data] * 3)
        dataset.PlanarConfiguration = 1  # says nothing of compressed samples
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        read = _read(dataset, tmp_path)
        for frame in read.array:
            assert np.abs(frame.astype(int) - colour).max() <= 6, photometric


def test_unknown_colours(tmp_path: Path) -> None:
    dataset = put_pixels(base(modality="ES"), volume_of((6, 7, 3), np.uint8), "YBR_PARTIAL_420")
    _refused(save(dataset, tmp_path / "one"), "YBR_PARTIAL_420")


def test_labels_are_no_image(tmp_path: Path) -> None:
    dataset = image(volume_of()[0], modality="RTDOSE")
    _refused(save(dataset, tmp_path / "one"), "is no image")


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


def _gdcm_encoded(dataset: Dataset, path: Path, syntax: int) -> Path:
    """Compresses with GDCM, which is not what pydicom's RLE and J2K decoders were written by."""
    save(dataset, path)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


_SYNTAXES = {
    RLELossless: gdcm.TransferSyntax.RLELossless,
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
    JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
}


@pytest.mark.parametrize("syntax", _SYNTAXES, ids=lambda uid: uid.name)
@pytest.mark.parametrize("kind", ["int16", "uint16", "uint8", "colour", "frames"])
def test_lossless_compression(tmp_path: Path, syntax: Any, kind: str) -> None:
    if kind == "frames":
        volume = volume_of((4, 20, 30), np.uint8)
        dataset, expected = cine(volume, "MONOCHROME2"), volume
    elif kind == "colour":
        expected = volume_of((1, 20, 30, 3), np.uint8)
        dataset = put_pixels(base(modality="US"), expected[0], "RGB")
    else:
        expected = volume_of((1, 20, 30), np.dtype(kind))
        dataset = image(expected[0])
    path = _gdcm_encoded(dataset, tmp_path / "one", _SYNTAXES[syntax])
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_series([path]).array, expected)


def test_jpeg_baseline(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8) * 2
    dataset = put_pixels(base(modality="US"), smooth)
    dataset.PixelData = encapsulate([imagecodecs.jpeg8_encode(smooth, level=95)])
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    read = _read(dataset, tmp_path)
    assert np.abs(read.array[0].astype(int) - smooth).max() <= 3


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_other_encodings_of_the_header(tmp_path: Path, syntax: Any) -> None:
    dataset = image(volume_of()[0])
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = volume_of()[0].astype(">i2").tobytes()
        dataset["PixelData"].VR = "OW"
    np.testing.assert_array_equal(_read(dataset, tmp_path).array[0], volume_of()[0])


def test_file_without_preamble(tmp_path: Path) -> None:
    whole = save(image(volume_of()[0]), tmp_path / "whole").read_bytes()
    (tmp_path / "bare.dcm").write_bytes(whole[132:])
    np.testing.assert_array_equal(read_series([tmp_path / "bare.dcm"]).array[0], volume_of()[0])


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


def test_truncated_pixel_data(tmp_path: Path) -> None:
    dataset = image(volume_of()[0])
    dataset.PixelData = dataset.PixelData[:40]
    _refused(save(dataset, tmp_path / "one"), "declares 84 bytes of pixels and 40 are there")


@pytest.mark.parametrize(("rows", "frames"), [(65535, 1), (65535, 4000)])
def test_size_that_lies(tmp_path: Path, rows: int, frames: int) -> None:
    dataset = image(volume_of()[0])
    dataset.Rows = dataset.Columns = rows
    dataset.NumberOfFrames = frames
    _refused(save(dataset, tmp_path / "one"), "above the limit")


def test_number_of_frames_that_lies(tmp_path: Path) -> None:
    dataset = cine(volume_of((2, 6, 7), np.uint8), "MONOCHROME2")
    for frames in (40_000_000, 100_000, 0, -1):
        dataset.NumberOfFrames = frames
        _refused(save(dataset, tmp_path / "one"), "holds no image")
    dataset.NumberOfFrames = 4000
    _refused(save(dataset, tmp_path / "one"), "declares 168000 bytes of pixels and 84 are there")


def _j2k(array: NDArray[Any]) -> bytes:
    return imagecodecs.jpeg2k_encode(array, codecformat="j2k", reversible=True)


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEG2000Lossless, _j2k),
        (JPEGLSLossless, imagecodecs.jpegls_encode),
        (JPEGBaseline8Bit, imagecodecs.jpeg8_encode),
    ],
)
def test_codestream_of_another_size(
    tmp_path: Path, syntax: Any, encode: Callable[[NDArray[Any]], bytes]
) -> None:
    dataset = put_pixels(base(), np.zeros((8, 8), np.uint8))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([encode(np.zeros((3000, 2000), np.uint8))])
    _refused(save(dataset, tmp_path / "one"), "8 x 8 x 1 and its compressed pixels 2000 x 3000")


def test_small_file_that_declares_a_huge_frame(tmp_path: Path) -> None:
    dataset = put_pixels(base(), np.zeros((8, 8), np.uint8))
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([b"\1" + bytes(200)])
    dataset.Rows = dataset.Columns = 30000
    _refused(save(dataset, tmp_path / "one"), "compressed bytes; it is no genuine file")


def test_deflated_bomb(tmp_path: Path) -> None:
    dataset = image(volume_of()[0])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save(dataset, tmp_path / "one")
    data = path.read_bytes()
    meta_end = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(1, wbits=-15)
    zeros = bytes(1 << 20)
    body = b"".join(packer.compress(zeros) for _ in range(300)) + packer.flush()
    path.write_bytes(data[:meta_end] + body)
    assert path.stat().st_size < 2 << 20
    _refused(path, "inflates to more than 256 MB")


def test_missing_decoder_and_missing_pixels(tmp_path: Path) -> None:
    dataset = image(volume_of()[0])
    dataset.PixelData = encapsulate([b"\0" * 20])
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
    _refused(save(dataset, tmp_path / "one"), "cannot be decoded here")
    dataset = image(volume_of()[0])
    del dataset.PixelData
    _refused(save(dataset, tmp_path / "two"), "no pixel data")


def test_whole_slide_and_odd_samples(tmp_path: Path) -> None:
    dataset = cine(volume_of((2, 6, 7, 3), np.uint8))
    dataset.TotalPixelMatrixColumns = 14
    _refused(save(dataset, tmp_path / "one"), "whole slide")
    dataset = cine(volume_of((2, 6, 7, 3), np.uint8))
    dataset.SamplesPerPixel = 4
    _refused(save(dataset, tmp_path / "two"), "4 samples per pixel")


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    _refused(tmp_path / "text", "cannot be read")
    (tmp_path / "empty").write_bytes(b"")
    _refused(tmp_path / "empty", "cannot be read")
