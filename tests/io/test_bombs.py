"""Small files whose streams ask for far more memory than the file declares."""

import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_volume

SHAPE = (8, 16, 16)


def deflated(size: int) -> bytes:
    compressor = zlib.compressobj(9)
    pieces = [compressor.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*pieces, compressor.flush()])


def with_chunk(path: Path, data: bytes, mask: int = 0) -> None:
    with h5py.File(path, "w") as file:
        image = file.create_dataset("image", SHAPE, "u1", chunks=SHAPE, compression="gzip")
        image.id.write_direct_chunk((0, 0, 0), data, mask)


def test_a_chunk_of_hdf5_that_inflates_to_more(tmp_path: Path) -> None:
    with_chunk(tmp_path / "a.h5", deflated(80 << 20))
    with pytest.raises(UserError, match=r"a\.h5: image has a chunk that inflates to more"):
        read_volume(tmp_path / "a.h5")


@pytest.mark.parametrize("filters", [{}, {"shuffle": True, "fletcher32": True}])
def test_large_genuine_chunks(tmp_path: Path, filters: dict[str, bool]) -> None:
    array = np.random.default_rng(0).integers(0, 4000, (4, 200, 300)).astype(np.int16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", data=array, chunks=(4, 200, 300), compression=9, **filters)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.h5").array, array)


def test_a_large_chunk_that_is_damaged(tmp_path: Path) -> None:
    with_chunk(tmp_path / "a.h5", b"\x78\x9c" + b"\xff" * 100_000)
    with pytest.raises(UserError, match=r"a\.h5: cannot be read"):
        read_volume(tmp_path / "a.h5")


def test_two_deflate_filters(tmp_path: Path) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(SHAPE)
    plist.set_deflate(9)
    plist.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (9,))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(
            file.id, b"image", h5py.h5t.NATIVE_UINT8, h5py.h5s.create_simple(SHAPE), plist
        )
        file["image"][:] = 1
    with pytest.raises(UserError, match="compressed in several ways"):
        read_volume(tmp_path / "a.h5")


def gif(width: int, height: int, frames: int) -> bytes:
    """Frames of one pixel on a large canvas."""
    palette = bytes([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    frame = b"\x21\xf9\x04\x04\x0a\0\0\0" + b"\x2c\0\0\0\0\1\0\1\0\0" + b"\x02\x02\x4c\x01\0"
    size = struct.pack("<HH", width, height)
    return b"GIF89a" + size + bytes([0xF1, 0, 0]) + palette + frames * frame + b";"


@pytest.mark.parametrize(
    ("size", "frames", "message"),
    [
        (1200, 60, "made to exhaust memory"),
        (4000, 100, "above the limit"),  # of which only the palette's indices are below it
    ],
)
def test_frames_of_one_pixel(tmp_path: Path, size: int, frames: int, message: str) -> None:
    (tmp_path / "a.gif").write_bytes(gif(size, size, frames))
    with pytest.raises(UserError, match=message):
        read_volume(tmp_path / "a.gif")


def test_few_frames_of_one_pixel(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(gif(40, 30, 5))
    assert read_volume(tmp_path / "a.gif").array.shape[:3] == (5, 30, 40)
