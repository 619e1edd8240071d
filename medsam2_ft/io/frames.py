"""A video as a folder with one picture for each frame."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.npz_zip import check_size
from medsam2_ft.io.pictures import decode_picture, notes_of
from medsam2_ft.io.pixels import Picture
from medsam2_ft.types import Volume

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
_IGNORED = ("thumbs.db", "desktop.ini", "__macosx")


def natural_key(path: Path) -> tuple[tuple[int, str | int], ...]:
    """Sort key of names by which ``frame_2`` comes before ``frame_10``."""
    pieces = re.split(r"([0-9]+)", path.name.lower())
    numbered: list[tuple[int, str | int]] = [
        (1, int(piece)) if index % 2 else (0, piece) for index, piece in enumerate(pieces)
    ]
    return (*numbered, (2, path.name))  # names that differ in case or zeros keep one order


def find_frames(folder: Path) -> tuple[Path, ...]:
    """Returns the frames of a folder in natural order.

    Empty where the folder holds no picture, or anything besides pictures; hidden files and what
    systems leave behind (``Thumbs.db``) do not count.

    Raises:
        UserError: The folder cannot be listed.
    """
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be listed ({error.strerror}); check the path and its rights"
        ) from error
    found = [
        entry
        for entry in entries
        if not entry.name.startswith(".") and entry.name.lower() not in _IGNORED
    ]
    if any(entry.suffix.lower() not in _SUFFIXES or not entry.is_file() for entry in found):
        return ()
    return tuple(sorted(found, key=natural_key))


def read_frames(files: Sequence[Path]) -> Volume:
    """Reads pictures as the frames of one video, in the order given.

    Returns:
        ``(t, y, x)`` of the stored type, or ``(t, y, x, 3)`` uint8 if any frame is in colour; a
        video without geometry.

    Raises:
        UserError: As ``decode_frames``.
    """
    picture = decode_frames(files)
    pixels = picture.pixels
    if pixels.dtype == np.bool_:
        pixels = pixels.view(np.uint8) * np.uint8(255)
    return Volume(pixels, has_geometry=False, is_video=True, notes=notes_of(picture))


def decode_frames(files: Sequence[Path]) -> Picture:
    """Decodes pictures of one size, each of one page, into one array.

    Raises:
        UserError: No file, a file that ``decode_picture`` refuses, frames of different size or
            type (the first odd one is named), or more than the size limit in all.
    """
    if not files:
        raise UserError("a video needs at least one frame; give the pictures")
    first = decode_picture(files[0])
    check_size(f"{files[0].parent}: {len(files)} frames", len(files) * first.pixels.size)
    result: NDArray[Any] = np.empty((len(files), *first.pixels.shape[1:]), first.pixels.dtype)
    indices: NDArray[Any] | None = None
    if first.indices is not None:
        indices = np.empty((len(files), *first.indices.shape[1:]), first.indices.dtype)
    lossy = transparent = False
    notes: dict[str, None] = {}
    for index, file in enumerate(files):
        frame = first if index == 0 else decode_picture(file)
        _check_frame(file, frame, files[0], first)
        result = _put(result, index, frame.pixels, file)
        if indices is not None and frame.indices is not None:
            indices[index] = frame.indices[0]
        else:
            indices = None
        lossy |= frame.lossy
        transparent |= frame.transparent
        notes |= dict.fromkeys(frame.notes)
    return Picture(result, indices, lossy, transparent, is_video=True, notes=tuple(notes))


def _check_frame(file: Path, frame: Picture, first_file: Path, first: Picture) -> None:
    if len(frame.pixels) != 1:
        raise UserError(f"{file}: has {len(frame.pixels)} pages; a frame must be one picture")
    if frame.pixels.shape[1:3] != first.pixels.shape[1:3]:
        y, x = frame.pixels.shape[1:3]
        first_y, first_x = first.pixels.shape[1:3]
        raise UserError(
            f"{file}: {x} x {y} pixels where {first_file.name} has {first_x} x {first_y}; the "
            "frames of a video have one size: remove or resize it"
        )


def _put(result: NDArray[Any], index: int, pixels: NDArray[Any], file: Path) -> NDArray[Any]:
    """Stores frame ``index``; the array widens to colour, or from one bit to eight, as needed."""
    if pixels.dtype == np.bool_ and result.dtype != np.bool_:
        pixels = pixels.view(np.uint8) * np.uint8(255)
    elif pixels.dtype != np.bool_ and result.dtype == np.bool_:
        result = result.view(np.uint8) * np.uint8(255)
    if pixels.dtype != result.dtype:
        raise UserError(
            f"{file}: is {pixels.dtype} where the frames before it are {result.dtype}; save all "
            "frames in one type"
        )
    if pixels.ndim > result.ndim:
        check_size(f"{file.parent}: {len(result)} frames", 3 * result.size)
        result = np.repeat(result[..., None], 3, axis=-1)
    result[index] = pixels[0] if pixels.ndim == result.ndim else pixels[0][..., None]
    return result
