"""Text, legends and blocks of pixels put together to one picture: pure functions to RGB arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from medsam2_ft.overlays import BACKGROUND, WHITE, Color

Pixels = UInt8[np.ndarray, "_ _ 3"]

LINE_PX = 20
_FONT_PX = 14
_MARGIN_PX = 6
_SWATCH_PX = 12
_MAX_STRIPES = 4


@dataclass(frozen=True)
class LegendEntry:
    """One name with its colours.

    Attributes:
        text: The name.
        colors: One or more; the first few are shown side by side.
    """

    text: str
    colors: tuple[Color, ...]


def wrap_text(text: str, width_px: int) -> list[str]:
    """Breaks a text into lines that fit; a word that is too long is broken, too.

    Args:
        text: Words separated by spaces.
        width_px: Width of the picture, from about 40.

    Returns:
        At least one line.
    """
    room = max(width_px - 2 * _MARGIN_PX, 1)
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if _text_px(joined) <= room:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and _text_px(lines[-1] + letter) > room:
                lines.append("")
            lines[-1] += letter
    return lines


def render_text(text: str, width_px: int, color: Color = WHITE) -> Pixels:
    """Draws a text in as many lines as it needs, on the background colour.

    Args:
        text: The text.
        width_px: Width of the picture.
        color: Of the letters.
    """
    lines = wrap_text(text, width_px)
    picture = Image.new("RGB", (width_px, LINE_PX * len(lines)), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for row, line in enumerate(lines):
        draw.text((_MARGIN_PX, row * LINE_PX + 1), line, fill=color, font=_font())
    return np.asarray(picture)


def render_legend(entries: Sequence[LegendEntry], width_px: int) -> Pixels:
    """Draws names with their colours, as many in a line as fit.

    Args:
        entries: May be empty; then the picture has no rows.
        width_px: Width of the picture; a longer name is cut off.
    """
    places, x, row = [], _MARGIN_PX, 0
    for entry in entries:
        needed = _SWATCH_PX + 5 + _text_px(entry.text)
        if x > _MARGIN_PX and x + needed > width_px - _MARGIN_PX:
            x, row = _MARGIN_PX, row + 1
        places.append((x, row * LINE_PX))
        x += needed + 3 * _MARGIN_PX
    height = (row + 1) * LINE_PX if entries else 0
    if height == 0:
        return np.zeros((0, width_px, 3), np.uint8)
    picture = Image.new("RGB", (width_px, height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for (left, top), entry in zip(places, entries, strict=True):
        colors = entry.colors[:_MAX_STRIPES]
        for stripe, color in enumerate(colors):
            start = left + stripe * _SWATCH_PX // len(colors)
            end = left + (stripe + 1) * _SWATCH_PX // len(colors) - 1
            draw.rectangle((start, top + 4, end, top + 3 + _SWATCH_PX), fill=color)
        draw.text((left + _SWATCH_PX + 5, top + 1), entry.text, fill=WHITE, font=_font())
    return np.asarray(picture)


def stack(blocks: Sequence[Pixels]) -> Pixels:
    """Puts blocks below each other, aligned at the left.

    Args:
        blocks: At least one.
    """
    width = max(block.shape[1] for block in blocks)
    canvas = _canvas(sum(block.shape[0] for block in blocks), width)
    top = 0
    for block in blocks:
        canvas[top : top + block.shape[0], : block.shape[1]] = block
        top += block.shape[0]
    return canvas


def flow(blocks: Sequence[Pixels], width_px: int, gap_px: int) -> Pixels:
    """Puts blocks beside each other, in as many rows as it takes.

    Args:
        blocks: At least one.
        width_px: A row is no wider, unless a single block is.
        gap_px: Space between blocks.
    """
    rows: list[list[Pixels]] = [[]]
    for block in blocks:
        used = sum(other.shape[1] + gap_px for other in rows[-1])
        if rows[-1] and used + block.shape[1] > width_px:
            rows.append([])
        rows[-1].append(block)
    return stack([_beside(row, gap_px) for row in rows])


def _beside(blocks: Sequence[Pixels], gap_px: int) -> Pixels:
    height = max(block.shape[0] for block in blocks) + gap_px
    canvas = _canvas(height, sum(block.shape[1] + gap_px for block in blocks) - gap_px)
    left = 0
    for block in blocks:
        canvas[: block.shape[0], left : left + block.shape[1]] = block
        left += block.shape[1] + gap_px
    return canvas


def _canvas(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=_FONT_PX)


def _text_px(text: str) -> int:
    return int(np.ceil(_font().getlength(text)))
