"""Pictures against Pillow, tifffile and arrays written by hand."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_volume
from medsam2_ft.io.pictures import decode_picture, read_picture

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (5, 7), np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7), np.uint16)
SAME = np.repeat(GRAY[..., None], 3, axis=-1)


def png(pixels: NDArray[Any], colour_type: int) -> bytes:
    """A 16-bit PNG, which Pillow cannot write in colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    y, x = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", x, y, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".gif"])
@pytest.mark.parametrize("pixels", [GRAY, RGB, SAME], ids=["gray", "colour", "equal channels"])
def test_lossless_pictures(tmp_path: Path, suffix: str, pixels: NDArray[np.uint8]) -> None:
    path = tmp_path / f"x{suffix}"
    Image.fromarray(pixels).save(path)
    expected = (
        GRAY
        if pixels is SAME
        else np.asarray(Image.open(path).convert("RGB" if pixels.ndim == 3 else "L"))
    )
    volume = read_picture(path)
    np.testing.assert_array_equal(volume.array, expected[None])
    assert not volume.has_geometry
    assert volume.notes == ()


@pytest.mark.parametrize("stored", [DEEP, DEEP.astype(np.float32), DEEP.astype(np.int32)])
def test_deep_gray(tmp_path: Path, stored: NDArray[Any]) -> None:
    tifffile.imwrite(tmp_path / "x.tif", stored)
    read = read_picture(tmp_path / "x.tif").array
    assert read.dtype == stored.dtype
    np.testing.assert_array_equal(read[0], stored)
    if stored.dtype == np.uint16:
        Image.fromarray(stored).save(tmp_path / "x.png")
        np.testing.assert_array_equal(read_picture(tmp_path / "x.png").array[0], stored)


def test_deep_colour_is_scaled_and_said(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (5, 7, 3), np.uint16)
    (tmp_path / "x.png").write_bytes(png(deep, 2))
    tifffile.imwrite(tmp_path / "x.tif", deep, photometric="rgb")
    for name in ("x.png", "x.tif"):
        volume = read_picture(tmp_path / name)
        np.testing.assert_array_equal(volume.array[0], np.rint(deep / 257))
        assert "16-bit colour" in volume.notes[0]


def test_deep_png_of_equal_channels_keeps_16_bits(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(np.repeat(DEEP[..., None], 3, -1), 2))
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png").array[0], DEEP)
    alpha = np.full_like(DEEP, 65535)
    (tmp_path / "x.png").write_bytes(png(np.stack([DEEP, alpha], -1), 4))
    assert read_picture(tmp_path / "x.png").notes == ()
    alpha[0, 0] = 0
    (tmp_path / "x.png").write_bytes(png(np.stack([DEEP, alpha], -1), 4))
    volume = read_picture(tmp_path / "x.png")
    np.testing.assert_array_equal(volume.array[0], DEEP)
    assert "alpha" in volume.notes[0]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    Image.fromarray(GRAY > 99).save(path)
    volume = read_volume(path)
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array[0], (GRAY > 99) * 255)


@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("pixels", [GRAY, RGB], ids=["LA", "RGBA"])
def test_alpha(tmp_path: Path, opaque: bool, suffix: str, pixels: NDArray[np.uint8]) -> None:
    path = tmp_path / f"x{suffix}"
    image = Image.fromarray(pixels)
    image.putalpha(Image.fromarray(np.full((5, 7), 255, np.uint8) if opaque else GRAY))
    image.save(path)
    volume = read_picture(path)
    np.testing.assert_array_equal(volume.array[0], pixels)
    assert ("alpha" in " ".join(volume.notes)) is not opaque


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif", ".bmp"])
@pytest.mark.parametrize("gray", [True, False])
def test_palette(tmp_path: Path, suffix: str, gray: bool) -> None:
    indices = GRAY % 4
    colours = np.array(
        [[9, 9, 9], [70, 70, 70], [0, 0, 0], [200, 200, 200 if gray else 7]], np.uint8
    )
    image = Image.fromarray(indices).convert("P")
    image.putpalette(colours.ravel().tolist())
    image.save(tmp_path / f"x{suffix}")
    expected = colours[indices]
    picture = decode_picture(tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(picture.pixels[0], expected[..., 0] if gray else expected)
    if suffix != ".gif":  # its writer sorts the palette
        assert picture.indices is not None
        np.testing.assert_array_equal(picture.indices[0], indices)


def test_jpeg(tmp_path: Path) -> None:
    """As Pillow decodes it; CMYK becomes RGB; a wrong name does no harm."""
    smooth = np.zeros((48, 64, 3), np.uint8)
    smooth[..., 0], smooth[..., 1] = np.arange(64) * 3, np.arange(48)[:, None] * 5
    for mode in ("L", "RGB", "CMYK"):
        path = tmp_path / f"{mode}.png"
        Image.fromarray(smooth).convert(mode).save(path, "JPEG")
        picture = decode_picture(path)
        expected = np.asarray(Image.open(path).convert("L" if mode == "L" else "RGB"))
        np.testing.assert_array_equal(picture.pixels[0], expected)
        assert picture.lossy
        assert ("CMYK" in " ".join(picture.notes)) == (mode == "CMYK")


def test_previews_behind_a_jpeg_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(STACK[0]).save(
        path, "MPO", save_all=True, append_images=[Image.fromarray(STACK[1, :2])]
    )
    picture = decode_picture(path)
    np.testing.assert_array_equal(picture.pixels[0], np.asarray(Image.open(path)))
    assert picture.lossy


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "x.png", exif=exif)
    tifffile.imwrite(tmp_path / "x.tif", RGB, extratags=[(274, 3, 1, orientation, True)])
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "x.png")))
    for name in ("x.png", "x.tif"):
        volume = read_picture(tmp_path / name)
        np.testing.assert_array_equal(volume.array[0], expected)
        assert bool(volume.notes) == (orientation != 1)


STACK = RNG.integers(0, 256, (4, 5, 7), np.uint8)


@pytest.mark.parametrize("options", [
    {}, {"compression": "lzw"}, {"compression": "zlib", "predictor": True}, {"tile": (16, 16)},
    {"compression": "packbits", "rowsperstrip": 2}, {"byteorder": ">"}, {"bigtiff": True},
    {"imagej": True, "metadata": {"axes": "ZYX"}}, {"metadata": None},
    {"ome": True, "metadata": {"axes": "ZYX"}},
])  # fmt: skip
def test_pages(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / ("x.ome.tif" if "ome" in options else "x.tif")
    tifffile.imwrite(path, STACK, photometric="minisblack", **options)
    volume = read_picture(path)
    np.testing.assert_array_equal(volume.array, STACK)
    assert volume.notes == ("4 pages were read as slices",)
    assert not volume.is_video


def test_tiff_layouts(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    colour = RNG.integers(0, 256, (3, 5, 7, 3), np.uint8)
    tifffile.imwrite(path, colour, photometric="rgb")
    np.testing.assert_array_equal(read_picture(path).array, colour)
    tifffile.imwrite(path, np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_picture(path).array[0], RGB)
    tifffile.imwrite(path, GRAY, photometric="miniswhite")
    inverted = read_picture(path)
    np.testing.assert_array_equal(inverted.array[0], 255 - GRAY)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), 255 - GRAY)  # as Pillow has it
    assert "white is zero" in inverted.notes[0]
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TYX"})
    assert read_picture(path).is_video


@pytest.mark.parametrize(("array", "options", "message"), [
    (np.zeros((2, 3, 5, 7), np.uint8), {"imagej": True, "metadata": {"axes": "TZYX"}}, "axes"),
    (np.zeros((4, 5, 7), np.uint8), {"imagej": True, "metadata": {"axes": "CYX"}}, "4 channels"),
    (np.zeros((5, 7, 5), np.uint8), {"planarconfig": "contig"}, "5 channels"),
    (np.zeros((5, 7), np.complex64), {}, "complex64"),
    (RNG.random((5, 7, 3)), {"photometric": "rgb"}, "float64"),
    (np.zeros((5, 7, 4), np.uint8), {"photometric": "separated"}, "save it as RGB|channels"),
])  # fmt: skip
def test_tiff_refused(
    tmp_path: Path, array: NDArray[Any], options: dict[str, Any], message: str
) -> None:
    tifffile.imwrite(tmp_path / "x.tif", array, **({"photometric": "minisblack"} | options))
    with pytest.raises(UserError, match=message):
        read_picture(tmp_path / "x.tif")


def test_pictures_of_several_sizes_in_one_tiff(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(GRAY)
        writer.write(GRAY[:3])
    with pytest.raises(UserError, match="2 pictures of different size"):
        read_picture(tmp_path / "x.tif")
    with tifffile.TiffWriter(tmp_path / "y.tif") as writer:
        writer.write(GRAY)
        writer.write(GRAY[:3], subfiletype=1)  # a thumbnail
    np.testing.assert_array_equal(read_picture(tmp_path / "y.tif").array[0], GRAY)


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_animations_are_slices(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    frames = [Image.fromarray(plane) for plane in STACK]
    frames[0].save(path, save_all=True, append_images=frames[1:], loop=0)
    volume = read_picture(path)
    np.testing.assert_array_equal(volume.array, STACK)
    assert "4 frames" in volume.notes[0]


def encoded(tmp_path: Path) -> dict[str, bytes]:
    """One file of every kind, none of them trivial to compress."""
    big = RNG.integers(0, 256, (40, 50), np.uint8)
    for name in ("a.png", "a.bmp", "a.gif", "a.jpg"):
        Image.fromarray(big).save(tmp_path / name)
    pages = [Image.fromarray(big), Image.fromarray(big.T.reshape(40, 50))]
    pages[0].save(tmp_path / "pages.gif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "pages.png", save_all=True, append_images=pages[1:])
    stack = np.stack([big, big[::-1], big[:, ::-1]])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", stack, photometric="minisblack", compression="zlib")
    tifffile.imwrite(tmp_path / "c.tif", stack, photometric="minisblack", metadata=None)
    return {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_no_truncated_picture_is_taken_for_a_whole_one(tmp_path: Path) -> None:
    for name, whole in encoded(tmp_path).items():
        path = tmp_path / name
        expected = read_picture(path).array
        for length in [*range(0, len(whole) - 1, max(1, len(whole) // 50)), len(whole) - 1]:
            path.write_bytes(whole[:length])
            try:
                found = read_picture(path).array
            except UserError:
                pass
            else:  # nothing but a checksum, padding or an end mark may be missing
                np.testing.assert_array_equal(found, expected)
                assert len(whole) - length < 100


def test_damage_within_a_png_shows(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(RNG.integers(0, 256, (40, 50), np.uint8)).save(path, compress_level=0)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(UserError, match="truncated, damaged"):
        read_picture(path)


@pytest.mark.parametrize("limit", [None, "100"])
def test_declared_size_is_looked_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None
) -> None:
    """A small file that declares 40,000 x 40,000 pixels takes neither memory nor time."""
    Image.fromarray(RGB).save(tmp_path / "x.png")
    data = bytearray((tmp_path / "x.png").read_bytes())
    if limit is None:
        data[16:24] = struct.pack(">II", 40_000, 40_000)
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    else:
        monkeypatch.setenv("MEDSAM2FT_MAX_VOXELS", limit)
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(UserError, match="bomb" if limit is None else "MEDSAM2FT_MAX_VOXELS"):
        read_picture(tmp_path / "x.png")


@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_tiff_that_declares_more_than_it_holds(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, GRAY, compression=None if compression == "none" else compression)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name, value in (
            ("ImageWidth", 40_000),
            ("ImageLength", 40_000),
            ("RowsPerStrip", 40_000),
        ):
            tif.pages[0].tags[name].overwrite(value)
    with pytest.raises(UserError, match="declares 1600000000 bytes"):
        read_picture(path)


def test_tiff_with_a_hole(tmp_path: Path) -> None:
    """Tifffile shows zeros where a strip has no data."""
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, STACK, compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[2].aspage().tags["StripByteCounts"].overwrite(0)
    assert not tifffile.imread(path)[2].any()
    with pytest.raises(UserError, match="part of the TIFF file's data is missing"):
        read_picture(path)


def test_gif_that_lost_its_last_frames(tmp_path: Path) -> None:
    """Pillow shows the frames that are left."""
    path = tmp_path / "x.gif"
    frames = [Image.fromarray(plane) for plane in STACK]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_picture(path)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_picture(tmp_path / "gone.png")
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(UserError, match="cannot identify"):
        read_picture(tmp_path / "x.png")
    (tmp_path / "x.png").write_text("<svg/>")
    with pytest.raises(UserError, match="cannot identify"):
        read_picture(tmp_path / "x.png")


def test_real_pictures(test_data: Path) -> None:
    """Every image of the real cases as Pillow reads it."""
    count = 0
    for path in sorted(test_data.rglob("*")):
        if path.suffix.lower() not in (".png", ".jpg", ".tif", ".gif") or "dev" in path.parts:
            continue
        count += 1
        stored = Image.open(path)
        expected = np.asarray(stored.convert("RGB") if stored.mode in ("RGBA", "P") else stored)
        found = read_picture(path).array[0]
        if found.ndim < expected.ndim:
            found = np.repeat(found[..., None], 3, axis=-1)
        np.testing.assert_array_equal(found, expected, err_msg=path.name)
    assert count > 50
