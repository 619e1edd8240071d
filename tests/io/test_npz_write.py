import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from isal import isal_zlib
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.npz_zip import open_npz, write_npz

PIECE = 16 << 20  # numpy hands an array over in pieces of 16 MiB


def noisy(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Body and air: noise that hardly compresses beside zeros that do."""
    values = np.random.default_rng(0).normal(120, 10, shape).astype(np.uint8)
    values[..., : shape[-1] // 2] = 0
    return values


ARRAYS: list[NDArray[Any]] = [
    noisy((3, 40, 50)),
    noisy((2, 9, 7, 3)),
    np.asfortranarray(noisy((4, 5, 6))),
    noisy((8, 30, 30))[::2, ::-1],
    np.array("MR, unicode: ä"),
    np.array(True),
    np.zeros((0, 4), np.float32),
    np.random.default_rng(1).normal(size=(5, 6)),
    noisy((17, 1024, 1024)),  # more than one piece
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}-{a.shape}")
def test_numpy_zipfile_and_we_read_it(tmp_path: Path, array: NDArray[Any]) -> None:
    path = tmp_path / "x.npz"
    write_npz(path, {"first": np.arange(3), "imgs": array})
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["first.npy", "imgs.npy"]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    with np.load(path, allow_pickle=False) as stored:
        assert stored["imgs"].dtype == array.dtype
        np.testing.assert_array_equal(stored["imgs"], array)
    with open_npz(path) as reader:
        np.testing.assert_array_equal(reader.read("imgs"), array)


def test_the_entries_are_deflated_by_isal(tmp_path: Path) -> None:
    """Nothing public of zipfile chooses the compressor, so that a new Python might drop it."""
    array = noisy((6, 100, 100))
    write_npz(tmp_path / "x.npz", {"imgs": array})
    plain = io.BytesIO()
    npy_format.write_array(plain, array)
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        entry = archive.getinfo("imgs.npy")
    start = entry.header_offset + 30 + len(entry.filename) + 20  # zip64 field
    deflated = (tmp_path / "x.npz").read_bytes()[start : start + entry.compress_size]
    header = plain.getvalue()[:128]
    compressor = isal_zlib.compressobj(2, isal_zlib.DEFLATED, -15)
    pieces = [header[:8], header[8:], array.tobytes()]
    assert deflated == b"".join(map(compressor.compress, pieces)) + compressor.flush()


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_npz(tmp_path / f"{name}.npz", {"imgs": noisy((17, 1024, 1024)), "x": np.ones(3)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_no_second_copy_of_the_array(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9, (96, 1024, 1024), np.uint8)
    tracemalloc.start()
    try:
        write_npz(tmp_path / "x.npz", {"imgs": array})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * PIECE < array.nbytes / 1.9


def test_size_close_to_zlib_on_real_ct(tmp_path: Path, test_data: Path) -> None:
    for path in sorted((test_data / "CT" / "medsam2_recist_npz").glob("*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in ("imgs", "gts")}
        write_npz(tmp_path / "ours.npz", arrays)
        np.savez_compressed(tmp_path / "theirs.npz", **arrays)
        ours, theirs = (tmp_path / f"{n}.npz" for n in ("ours", "theirs"))
        assert ours.stat().st_size < 1.06 * theirs.stat().st_size


def test_objects_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        write_npz(tmp_path / "x.npz", {"a": np.ones(3), "b": np.array([{}], object)})
    assert list(tmp_path.iterdir()) == []


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none/x\.npz: cannot be written"):
        write_npz(tmp_path / "none" / "x.npz", {"a": np.ones(3)})
