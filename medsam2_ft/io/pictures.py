"""PNG, JPEG, BMP and GIF through Pillow; TIFF goes to ``medsam2_ft.io.tiff``.

The first bytes decide the format, since JPEG files named ``.png`` are common.
"""

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image, ImageOps

from medsam2_ft.errors import UserError
from medsam2_ft.io.npz_zip import check_size
from medsam2_ft.io.pixels import Picture, check_expansion, reduce_colour, stack_pages
from medsam2_ft.types import Volume

_FORMATS = ("PNG", "JPEG", "BMP", "GIF")
_LOSSY = ("JPEG", "MPO")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION_TAG = 0x0112
_GRAY_MODES = ("L", "I", "I;16", "I;16B", "F")
_DAMAGED = (
    OSError,
    SyntaxError,  # Pillow's word for a file that does not follow the format
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    imagecodecs.PngError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    UserWarning,
)


def read_picture(path: Path) -> Volume:
    """Reads a picture as an image.

    Returns:
        ``(z, y, x)`` of the stored type, or ``(z, y, x, 3)`` uint8; z counts pages or frames and
        is 1 for an ordinary picture. One bit becomes 0 and 255. Without geometry: the resolution
        tags of pictures speak of print, not of the body.

    Raises:
        UserError: As ``decode_picture``.
    """
    picture = decode_picture(path)
    pixels = picture.pixels
    if pixels.dtype == np.bool_:
        pixels = pixels.view(np.uint8) * np.uint8(255)
    return Volume(pixels, has_geometry=False, is_video=picture.is_video, notes=notes_of(picture))


def notes_of(picture: Picture) -> tuple[str, ...]:
    """Returns the picture's notes, with one on transparency where there is some."""
    if not picture.transparent:
        return picture.notes
    return (*picture.notes, "an alpha channel that is not opaque was left out")


def decode_picture(path: Path) -> Picture:
    """Decodes a picture in full: nothing damaged or cut off is taken for a whole one.

    Palettes become RGB, alpha is left out, CMYK becomes RGB, and the orientation of the EXIF data
    is applied.

    Raises:
        UserError: Missing, damaged, truncated, another format, more than Pillow's limit of pixels
            or ours, or pages of several sizes.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(26)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); check the path"
        ) from error
    if start[:4] in _TIFF_STARTS:
        from medsam2_ft.io.tiff import decode_tiff

        return decode_tiff(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Pillow would go on with the first frame alone
            warnings.filterwarnings("error", "Invalid APNG", UserWarning)
            return _decode(path, start)
    except UserError:
        raise
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"{path}: cannot be read ({reason}); the file is truncated, damaged, too large or no "
            "picture: copy or save it again"
        ) from error


def _decode(path: Path, start: bytes) -> Picture:
    with Image.open(path, formats=_FORMATS) as image:
        # the pictures behind the first one of an MPO file are previews or a second eye's view
        count = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
        _check_declared(path, image, count)
        _check_end(path, image)
        if count == 1 and image.format == "PNG" and start[24] == 16 and start[25] in (2, 4, 6):
            return _decode_deep_png(path)
        notes = _orientation_note(image)
        if image.mode == "CMYK":
            notes.append("CMYK was turned into RGB")
        pages, indices, transparent = [], [], False
        for index in range(count):
            image.seek(index)
            image.load()
            turned = ImageOps.exif_transpose(image)
            pages.append(_pixels(turned))
            indices.append(np.asarray(turned) if turned.mode == "P" else None)
            transparent |= _is_transparent(turned)
        lossy = image.format in _LOSSY
    pixels = stack_pages(str(path), pages)
    known = [page for page in indices if page is not None]
    return Picture(
        pixels,
        indices=np.stack(known) if len(known) == len(pages) else None,
        lossy=lossy,
        transparent=transparent,
        notes=(*notes, *([f"{count} frames were read as slices"] if count > 1 else [])),
    )


def _check_declared(path: Path, image: Image.Image, count: int) -> None:
    """Looks at the size before anything is decoded.

    Raises:
        UserError: Beyond the limit, or frames out of proportion to the file: one of a single pixel
            takes 20 bytes there, and in memory as much as the largest.
    """
    channels = 3 if image.mode in ("P", "PA") or count > 1 else len(image.getbands())
    values = count * image.width * image.height * channels
    check_size(str(path), values)
    if count > 1:
        check_expansion(path, path.stat().st_size, values)


def _check_end(path: Path, image: Image.Image) -> None:
    """Looks for the end mark of a GIF.

    Raises:
        UserError: It ends early, which Pillow shows as a GIF with fewer frames.
    """
    if isinstance(image, GifImagePlugin.GifImageFile):
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 64))
            ends = stream.read().rstrip(b"\0").endswith(b";")
        if not ends:
            raise UserError(f"{path}: the GIF ends early; copy it again")


def _orientation_note(image: Image.Image) -> list[str]:
    orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    return [] if orientation in (0, 1) else [f"turned upright by EXIF orientation {orientation}"]


def _pixels(image: Image.Image) -> NDArray[Any]:
    """``(y, x)`` of the stored type or ``(y, x, 3)`` uint8."""
    if image.mode == "1":
        # not np.asarray(image): its booleans are stored as 255, which shows in every view
        return np.asarray(np.asarray(image.convert("L")) > 0)
    if image.mode in _GRAY_MODES:
        array = np.asarray(image)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if image.mode in ("LA", "La"):
        return np.asarray(image.getchannel(0))
    # one call from a palette with transparency would warn and keep alpha
    colour = image.convert("RGBA") if image.mode in ("P", "PA") else image
    return reduce_colour("picture", np.asarray(colour.convert("RGB")))[0]


def _is_transparent(image: Image.Image) -> bool:
    if not image.has_transparency_data or image.mode.startswith("I"):
        return False
    return bool((np.asarray(image.convert("RGBA").getchannel("A")) < 255).any())


def _decode_deep_png(path: Path) -> Picture:
    """PNG with two to four 16-bit channels, of which Pillow keeps the upper 8 bits."""
    stored = imagecodecs.png_decode(path.read_bytes())
    alpha = stored[..., -1] if stored.shape[-1] in (2, 4) else None
    colours = stored[..., : 1 if stored.shape[-1] == 2 else 3]
    pixels, notes = reduce_colour(str(path), colours)
    return Picture(
        pixels[None],
        transparent=alpha is not None and bool((alpha < 65535).any()),
        notes=notes,
    )
