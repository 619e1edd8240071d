"""Damaged DICOM files end in a volume or in one line, never in another error or a hang."""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from dicom_files import (
    SECRET,
    base,
    cine,
    enhanced,
    image,
    put_pixels,
    save,
    segmentation,
    structure_set,
    volume_of,
)
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from medsam2_ft.errors import UserError
from medsam2_ft.io.dicom import read_dicom_labels, read_series, scan
from medsam2_ft.types import Geometry, LabelVolume, Volume

LIKE = Volume(np.zeros((4, 12, 16), np.int16), Geometry((2.0, 1.0, 1.0)))
GRAY = np.random.default_rng(0).integers(0, 250, (12, 16)).astype(np.uint8)


def _compressed(syntax: str, data: bytes) -> Dataset:
    dataset = put_pixels(base(modality="US"), GRAY)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([data])
    return dataset


def _rle() -> Dataset:
    dataset = image(volume_of((12, 16)))
    dataset.compress(RLELossless)
    return dataset


def _deflated() -> Dataset:
    dataset = image(volume_of((12, 16)))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return dataset


def _contours() -> Dataset:
    square = [(1.5, 1.5, 2.0), (9.5, 1.5, 2.0), (9.5, 7.5, 2.0), (1.5, 7.5, 2.0)]
    return structure_set([(1, "a", [("CLOSED_PLANAR", square)] * 2), (2, "b", [("POINT", square)])])


def _seg(kind: str) -> Dataset:
    frames = [(s, (0.0, 0.0, 2.0 * z), GRAY // 125) for s in (1, 2) for z in range(3)]
    return segmentation(frames, kind, spacing=(1.0, 1.0))


_MAKERS: dict[str, Callable[[], Dataset]] = {
    "ct": lambda: image(volume_of((12, 16))),
    "enhanced": lambda: enhanced(volume_of((3, 12, 16)), [(0, 0, 2 * z) for z in range(3)]),
    "cine": lambda: cine(volume_of((3, 12, 16, 3), np.uint8)),
    "rle": _rle,
    "deflated": _deflated,
    "j2k": lambda: _compressed(
        JPEG2000Lossless, imagecodecs.jpeg2k_encode(GRAY, codecformat="j2k", reversible=True)
    ),
    "jpegls": lambda: _compressed(JPEGLSLossless, imagecodecs.jpegls_encode(GRAY)),
    "jpeg": lambda: _compressed(JPEGBaseline8Bit, imagecodecs.jpeg8_encode(GRAY)),
    "contours": _contours,
    "binary": lambda: _seg("BINARY"),
    "fractional": lambda: _seg("FRACTIONAL"),
}


def _mutated(good: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(good)
    # the first bytes are a preamble that nobody reads
    for at in rng.integers(128, len(data), rng.integers(1, 8)):
        at = min(int(at), len(data) - 1)
        choice = rng.integers(0, 4)
        if choice == 0:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif choice == 1:
            data[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
        elif choice == 2:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        else:
            del data[at : at + int(rng.integers(1, 9))]
    return bytes(data[: int(rng.integers(1, len(data)))] if rng.random() < 0.1 else data)


def _outcome(path: Path, is_labels: bool) -> Any:
    try:
        scan(path.parent)
        return read_dicom_labels(path, LIKE) if is_labels else read_series([path])
    except UserError as error:
        return str(error)


def _fuzz(folder: Path, count: int) -> None:
    rng = np.random.default_rng(2026)
    results: list[Any] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    goods = {name: save(make(), folder / name).read_bytes() for name, make in _MAKERS.items()}
    for name in goods:
        result = _outcome(folder / name, name in ("contours", "binary", "fractional"))
        assert not isinstance(result, str), result
        (folder / name).unlink()
    for i in range(count):
        name = list(goods)[i % len(goods)]
        path = folder / "x.dcm"
        path.write_bytes(_mutated(goods[name], rng))
        started = time.monotonic()
        result = _outcome(path, name in ("contours", "binary", "fractional"))
        assert time.monotonic() - started < 20, name
        assert isinstance(result, Volume | LabelVolume | str)
        if isinstance(result, str):
            assert result.startswith(str(folder))
            assert "\n" not in result
            assert SECRET not in result
        results.append(result)
    refused = sum(isinstance(result, str) for result in results)
    assert count // 10 < refused < count
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2 << 20  # kilobytes


def test_damaged_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _fuzz(tmp_path, 110)
    assert not caplog.records  # pydicom quotes values in its log


@pytest.mark.slow
def test_many_damaged_files(tmp_path: Path) -> None:
    _fuzz(tmp_path, 2200)
