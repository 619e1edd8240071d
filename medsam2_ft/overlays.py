"""Pictures of slices with masks and boxes: pure functions from arrays to RGB arrays and PNG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from medsam2_ft.io.atomic import atomic_path, make_folder

Color = tuple[int, int, int]

# Okabe and Ito's colours, told apart by colour-blind readers too, brightened for dark images.
PALETTE: Final[tuple[Color, ...]] = (
    (86, 180, 233),
    (240, 180, 20),
    (0, 190, 140),
    (240, 110, 40),
    (225, 130, 185),
    (245, 235, 70),
    (70, 130, 230),
    (165, 115, 245),
)
WHITE: Final[Color] = (255, 255, 255)
RED: Final[Color] = (235, 50, 50)
BACKGROUND: Final[Color] = (24, 24, 27)
CAPTION_PX: Final = 22
CAPTION_MIN_PX: Final = 160
GAP_PX: Final = 6


@dataclass(frozen=True)
class MaskLayer:
    """A mask to draw.

    Attributes:
        mask: At any resolution; it is scaled to the panel.
        color: RGB.
        style: ``fill`` is translucent with an outline, ``outline`` the outline alone.
    """

    mask: Bool[np.ndarray, "mh mw"]
    color: Color
    style: Literal["fill", "outline"] = "outline"


@dataclass(frozen=True)
class BoxLayer:
    """A box to draw.

    Attributes:
        box_xyxy: Inclusive corners in pixels of the image.
        color: RGB.
    """

    box_xyxy: Float[np.ndarray, " 4"]
    color: Color


@dataclass(frozen=True)
class Panel:
    """One picture: an image, what lies on it, and a line of text above it.

    Attributes:
        image: Gray or colour slice, 0-255.
        caption: Text, cut off where the panel ends.
        masks: Drawn in this order.
        boxes: Drawn over the masks.
        pixel_aspect: Height of a pixel divided by its width; the image is stretched by it.
    """

    image: UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]
    caption: str = ""
    masks: Sequence[MaskLayer] = field(default_factory=tuple)
    boxes: Sequence[BoxLayer] = field(default_factory=tuple)
    pixel_aspect: float = 1.0


def color_of(index: int) -> Color:
    """Returns the colour of the ``index``-th object; colours repeat after eight."""
    return PALETTE[index % len(PALETTE)]


def render_panel(
    panel: Panel, side_px: int = 384, *, crop: bool = False
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Draws a panel; the image keeps its aspect ratio in a square below the caption.

    Lines are drawn after scaling, so that they are equally thin on any image.

    Args:
        panel: What to draw.
        side_px: Side of the square in pixels.
        crop: Leave out the square's empty rows above and below a wide image, and the empty
            columns beside a tall one, as far as the caption does without them.

    Returns:
        RGB of ``side_px + CAPTION_PX`` rows and ``side_px`` columns, with ``crop`` fewer.
    """
    height, width = panel.image.shape[:2]
    shown_height = height * panel.pixel_aspect
    scale = side_px / max(shown_height, width)
    size_wh = (max(1, round(width * scale)), max(1, round(shown_height * scale)))
    canvas = _scaled_rgb(panel.image, size_wh)
    for layer in panel.masks:
        _draw_mask(canvas, layer)
    for box in panel.boxes:
        _draw_box(canvas, box, (size_wh[0] / width, size_wh[1] / height))
    rows = size_wh[1] if crop else side_px
    columns = max(size_wh[0], min(side_px, CAPTION_MIN_PX)) if crop else side_px
    framed = np.full((rows + CAPTION_PX, columns, 3), BACKGROUND, np.uint8)
    top = CAPTION_PX + (rows - size_wh[1]) // 2
    left = (columns - size_wh[0]) // 2
    framed[top : top + size_wh[1], left : left + size_wh[0]] = canvas
    return _with_text(framed, panel.caption)


def render_grid(
    panels: Sequence[Panel], columns: int, side_px: int = 384, *, crop: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws panels row by row.

    Args:
        panels: At least one.
        columns: Panels per row; fewer panels make a narrower picture.
        side_px: Side of a panel's image in pixels.
        crop: See ``render_panel``; every panel gets the room of the largest one.

    Raises:
        ValueError: There is no panel.
    """
    if not panels:
        raise ValueError("A grid needs at least one panel.")
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    rendered = [render_panel(panel, side_px, crop=crop) for panel in panels]
    step_y = max(panel.shape[0] for panel in rendered) + GAP_PX
    step_x = max(panel.shape[1] for panel in rendered) + GAP_PX
    shape = (rows * step_y + GAP_PX, columns * step_x + GAP_PX, 3)
    grid = np.full(shape, BACKGROUND, np.uint8)
    for i, panel in enumerate(rendered):
        y, x = GAP_PX + i // columns * step_y, GAP_PX + i % columns * step_x
        grid[y : y + panel.shape[0], x : x + panel.shape[1]] = panel
    return grid


def write_png(path: Path, rgb: UInt8[np.ndarray, "h w 3"], software: str = "") -> None:
    """Writes a picture atomically and makes its folder.

    Args:
        path: The file.
        rgb: The picture.
        software: What made it, stored in the file under that key.

    Raises:
        UserError: The file cannot be written.
    """
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        texts = PngInfo()
        if software:
            texts.add_text("Software", software)
        Image.fromarray(rgb).save(temporary, format="PNG", pnginfo=texts)


def _scaled_rgb(
    image: UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"], size_wh: tuple[int, int]
) -> UInt8[np.ndarray, "sh sw 3"]:
    shrinks = size_wh[0] < image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scaled = cv2.resize(np.ascontiguousarray(image), size_wh, interpolation=interpolation)
    rgb = scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=-1)
    return np.ascontiguousarray(rgb, dtype=np.uint8)


def _draw_mask(canvas: UInt8[np.ndarray, "h w 3"], layer: MaskLayer) -> None:
    """Draws in place."""
    size_wh = (canvas.shape[1], canvas.shape[0])
    # A smooth outline instead of the staircase of a coarse mask; fine pixels stay visible.
    soft = cv2.resize(layer.mask.astype(np.float32), size_wh, interpolation=cv2.INTER_LINEAR)
    mask = soft >= 0.5
    if layer.style == "fill":
        tint = np.array(layer.color, np.float32)
        canvas[mask] = (0.65 * canvas[mask] + 0.35 * tint).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, layer.color, 1, cv2.LINE_AA)


def _draw_box(
    canvas: UInt8[np.ndarray, "h w 3"], layer: BoxLayer, scale_xy: tuple[float, float]
) -> None:
    """Draws in place, around the outer edge of the box's last row and column."""
    x0, y0, x1, y1 = (float(side) for side in layer.box_xyxy)
    corners = (x0 * scale_xy[0], y0 * scale_xy[1], (x1 + 1) * scale_xy[0], (y1 + 1) * scale_xy[1])
    left, top, right, bottom = (round(c) for c in corners)
    height, width = canvas.shape[:2]
    start = (min(max(left, 0), width - 1), min(max(top, 0), height - 1))
    end = (min(max(right - 1, 0), width - 1), min(max(bottom - 1, 0), height - 1))
    cv2.rectangle(canvas, start, end, layer.color, 1)


def _with_text(rgb: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "h w 3"]:
    picture = Image.fromarray(rgb)
    font = ImageFont.load_default(size=14)
    ImageDraw.Draw(picture).text((4, 2), text, fill=WHITE, font=font)
    return np.asarray(picture)
