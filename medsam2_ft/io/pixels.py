"""Decoded pictures, before it is decided whether they are images or masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError

_EXPANSION_LIMIT = 2000
_SMALL_BYTES = 1 << 26


@dataclass(frozen=True)
class Picture:
    """One picture, or several pages or frames of one size.

    Attributes:
        pixels: ``(z, y, x)`` of any real type, bool where one bit is stored, or ``(z, y, x, 3)``
            uint8. Colour whose three channels are equal everywhere comes as ``(z, y, x)``.
        indices: ``(z, y, x)`` palette indices, where every page has a palette.
        lossy: Whether the values went through a lossy compression.
        transparent: Whether an alpha channel, which is left out, says more than "opaque".
        is_video: Whether the first axis is time.
        notes: What had to be decided, a sentence each.
    """

    pixels: NDArray[Any]
    indices: NDArray[Any] | None = None
    lossy: bool = False
    transparent: bool = False
    is_video: bool = False
    notes: tuple[str, ...] = ()


def reduce_colour(where: str, pixels: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Makes ``(..., 3)`` gray where its channels are equal, else uint8.

    Args:
        where: Name for messages.
        pixels: ``(..., 3)`` colour of uint8 or uint16.

    Returns:
        ``(...)`` of the same type, or ``(..., 3)`` uint8; and notes.

    Raises:
        UserError: Colour that is neither uint8 nor uint16.
    """
    if channels_equal(pixels):
        return np.ascontiguousarray(pixels[..., 0]), ()
    if pixels.dtype == np.uint8:
        return pixels, ()
    if pixels.dtype != np.uint16:
        raise UserError(f"{where}: colour of type {pixels.dtype}; save it as 8-bit or 16-bit RGB")
    note = f"16-bit colour with values up to {int(pixels.max())} was scaled by 255/65535"
    result = np.empty(pixels.shape, np.uint8)
    for row in range(len(pixels)):
        result[row] = (pixels[row].astype(np.uint32) + 128) // 257
    return result, (note,)


def channels_equal(pixels: NDArray[Any]) -> bool:
    """Returns whether ``(n, ..., c)`` holds the same values in every channel."""
    return all(bool((part[..., 1:] == part[..., :1]).all()) for part in pixels)


def stack_pages(where: str, pages: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Joins ``(y, x)`` and ``(y, x, 3)`` pages along a new first axis; gray joins colour.

    Raises:
        UserError: No page, pages of different sizes, or colour beside gray that is not 8-bit.
    """
    if not pages:
        raise UserError(f"{where}: has no picture; remove the file or make it again")
    odd = [page.shape[:2] for page in pages if page.shape[:2] != pages[0].shape[:2]]
    if odd:
        raise UserError(
            f"{where}: has pages of {pages[0].shape[:2]} and of {odd[0]} (y, x); "
            "save them as separate files"
        )
    if all(page.ndim == 2 for page in pages):
        return np.stack(pages)
    result = np.empty((len(pages), *pages[0].shape[:2], 3), np.uint8)
    for index, page in enumerate(pages):
        gray = page.view(np.uint8) * np.uint8(255) if page.dtype == np.bool_ else page
        if gray.dtype != np.uint8:
            raise UserError(
                f"{where}: has colour beside gray of type {page.dtype}; save all as 8-bit"
            )
        result[index] = gray if gray.ndim == 3 else gray[..., None]
    return result


def check_expansion(path: Path, stored_bytes: int, decoded_bytes: int) -> None:
    """Refuses a small file that declares to be a huge array.

    Raises:
        UserError: More than 64 MB, and 2000 times the stored size (deflate ends at 1030).
    """
    if decoded_bytes > max(_SMALL_BYTES, _EXPANSION_LIMIT * stored_bytes):
        raise UserError(
            f"{path}: declares {decoded_bytes} bytes of values, of which it stores {stored_bytes}; "
            "it is damaged or made to exhaust memory: make it again"
        )
