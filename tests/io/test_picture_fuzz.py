"""Damaged pictures, videos, HDF5 files and volumes: a result or a UserError, within bounds.

A few mutations run every time; thousands of every kind under the marker ``slow``.
"""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_labels, read_volume, write_labels, write_volume
from medsam2_ft.io.npz import write_case
from medsam2_ft.types import Case, Geometry, LabelVolume, Volume

MAX_MEMORY_KB = 2 << 20
MAX_SECONDS = 20.0
RNG = np.random.default_rng(7)
MASK = np.zeros((24, 30), np.uint8)
MASK[4:12, 5:20] = 3
NOISE = RNG.integers(0, 256, (24, 30, 3), np.uint8)
STACK = RNG.integers(0, 256, (3, 24, 30), np.uint16)


def picture(path: Path) -> None:
    image = Image.fromarray(MASK if "mask" in path.name else NOISE)
    image.convert("P" if "palette" in path.name else image.mode).save(path)


def animation(path: Path) -> None:
    pages = [Image.fromarray(plane.astype(np.uint8)) for plane in STACK]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def tiff(path: Path) -> None:
    compression = None if "plain" in path.name else path.name.split("_")[0]
    tifffile.imwrite(path, STACK, photometric="minisblack", compression=compression, tile=(16, 16))


def video(path: Path) -> None:
    codec = {".mp4": "libx264", ".webm": "libvpx", ".avi": "mpeg4", ".mkv": "ffv1"}[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"  # type: ignore[union-attr]
        for shift in range(6):
            frame = np.roll(NOISE[:, :28].repeat(2, 1)[:, :32], shift, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))  # type: ignore[union-attr]
        container.mux(stream.encode())  # type: ignore[union-attr]


def hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=STACK, compression="gzip", chunks=(1, 24, 30))
        file.create_dataset("label", data=MASK[None].repeat(3, 0), compression="gzip")
        file["image"].attrs["spacing"] = (2.0, 1.0, 1.0)


def volume(path: Path) -> None:
    geometry = Geometry((2.0, 0.7, 0.8), (1.0, -2.0, 3.0))
    if path.suffix == ".npz":
        write_case(path, Case("a", NOISE[None], (MASK[None],), geometry, "CT", {3: "liver"}))
    elif path.name.endswith(".seg.nrrd"):
        write_labels(path, LabelVolume((MASK[None], (MASK[None] > 0) * np.uint8(9)), {3: "a"}))
    else:
        write_volume(path, Volume(STACK.astype(np.int16), geometry))


KINDS: dict[str, Callable[[Path], None]] = {
    "a.png": picture, "mask.png": picture, "palette.png": picture, "a.jpg": picture,
    "mask.bmp": picture, "palette.gif": picture, "frames.gif": animation, "frames.png": animation,
    "plain_.tif": tiff, "zlib_.tif": tiff, "lzw_.tif": tiff, "jpeg2000_.tif": tiff,
    "a.mp4": video, "a.webm": video, "a.avi": video, "a.mkv": video, "a.h5": hdf5,
    "a.nii": volume, "a.nii.gz": volume, "a.nrrd": volume, "a.mha": volume, "a.npz": volume,
    "a.seg.nrrd": volume,
}  # fmt: skip


def mutated(whole: bytes, rng: np.random.Generator) -> bytes:
    """Flips bits, writes extreme numbers, moves a piece, or cuts."""
    data = bytearray(whole)
    # headers decide most: half of the changes hit the first 200 bytes
    spans = [min(200, len(data)) if rng.random() < 0.5 else len(data) for _ in range(4)]
    for span in spans[: int(rng.integers(1, 5))]:
        at = int(rng.integers(min(span, len(data))))
        match int(rng.integers(4)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at : at + 4] = rng.choice(
                    np.array(
                        [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\x9c\x40"]
                    )
                ).ljust(4, b"\0")
            case 2:
                start = int(rng.integers(len(data)))
                data[at:at] = data[start : start + 16]
            case 3:
                del data[at : at + int(rng.integers(1, 9))]
    return bytes(data[: int(rng.integers(1, len(data) + 1))] if rng.random() < 0.15 else data)


def check(path: Path) -> bool:
    """Whether the file was read; anything but a result or a line for the user fails."""
    read = False
    for reader in (read_volume, read_labels):
        if reader is read_labels and path.suffix in (".mp4", ".webm", ".avi", ".mkv"):
            continue
        began = time.monotonic()
        try:
            found = reader(path)
        except UserError as caught:
            message = str(caught)
            assert message.startswith(str(path)), message
            assert "\n" not in message
        else:
            arrays: list[NDArray[np.generic]] = (
                [found.array] if hasattr(found, "array") else list(found.maps)
            )
            assert all(array.ndim in (3, 4) and array.size for array in arrays)
            read = True
        assert time.monotonic() - began < MAX_SECONDS
    return read


def run(tmp_path: Path, name: str, count: int, seed: int) -> int:
    (tmp_path / "whole").mkdir(exist_ok=True)
    KINDS[name](tmp_path / "whole" / name)
    assert check(tmp_path / "whole" / name)
    whole = (tmp_path / "whole" / name).read_bytes()
    rng = np.random.default_rng(seed)
    read, peak = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        (tmp_path / name).write_bytes(mutated(whole, rng))
        read += check(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MAX_MEMORY_KB
    return read


@pytest.mark.parametrize("name", KINDS)
def test_some_mutations(tmp_path: Path, name: str) -> None:
    run(tmp_path, name, 10, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_mutations(tmp_path: Path, name: str) -> None:
    run(tmp_path, name, 250, seed=2)
