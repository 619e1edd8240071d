"""Encodings of DICOM pixels, and sizes that lie."""

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
    base,
    cine,
    image,
    put_pixels,
    refused,
    save,
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

from medsam2_ft.io.dicom import read_series


def _read(dataset: Dataset, tmp_path: Path) -> Any:
    return read_series([save(dataset, tmp_path / "one")])


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


def test_truncated_pixel_data(tmp_path: Path) -> None:
    dataset = image(volume_of()[0])
    dataset.PixelData = dataset.PixelData[:40]
    refused(save(dataset, tmp_path / "one"), "declares 84 bytes of pixels and 40 are there")


@pytest.mark.parametrize(("rows", "frames"), [(65535, 1), (65535, 4000)])
def test_size_that_lies(tmp_path: Path, rows: int, frames: int) -> None:
    dataset = image(volume_of()[0])
    dataset.Rows = dataset.Columns = rows
    dataset.NumberOfFrames = frames
    refused(save(dataset, tmp_path / "one"), "above the limit")


def test_number_of_frames_that_lies(tmp_path: Path) -> None:
    dataset = cine(volume_of((2, 6, 7), np.uint8), "MONOCHROME2")
    for frames in (40_000_000, 100_000, 0, -1):
        dataset.NumberOfFrames = frames
        refused(save(dataset, tmp_path / "one"), "holds no image")
    dataset.NumberOfFrames = 4000
    refused(save(dataset, tmp_path / "one"), "declares 168000 bytes of pixels and 84 are there")


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
    refused(save(dataset, tmp_path / "one"), "8 x 8 x 1 and its compressed pixels 2000 x 3000")


def test_small_file_that_declares_a_huge_frame(tmp_path: Path) -> None:
    dataset = put_pixels(base(), np.zeros((8, 8), np.uint8))
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([b"\1" + bytes(200)])
    dataset.Rows = dataset.Columns = 30000
    refused(save(dataset, tmp_path / "one"), "compressed bytes; it is no genuine file")


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
    refused(path, "inflates to more than 256 MB")


def test_missing_decoder_and_missing_pixels(tmp_path: Path) -> None:
    dataset = image(volume_of()[0])
    dataset.PixelData = encapsulate([b"\0" * 20])
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
    refused(save(dataset, tmp_path / "one"), "cannot be decoded here")
    dataset = image(volume_of()[0])
    del dataset.PixelData
    refused(save(dataset, tmp_path / "two"), "no pixel data")
