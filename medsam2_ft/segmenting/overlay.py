"""Segmentations drawn over their image: a contact sheet, or a film through all slices."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from medsam2_ft.inspection.layout import LegendEntry, Pixels, render_legend, render_text, stack
from medsam2_ft.io import file_suffix
from medsam2_ft.object_prompts import ObjectPrompt, SlicePrompt
from medsam2_ft.overlays import (
    CAPTION_PX,
    RED,
    WHITE,
    BoxLayer,
    Color,
    MaskLayer,
    Panel,
    color_of,
    render_grid,
    render_panel,
    write_png,
)
from medsam2_ft.types import LabelVolume
from medsam2_ft.volume_prompts import frames_along

SHEET_SLICES = 12
_PANEL_PX = 320
_FILM_MIN_PX = 384
_FILM_MAX_PX = 1920
_POINT_SHARE = 0.012
_MAX_ENTRIES = 16


@dataclass(frozen=True)
class Scene:
    """What is drawn.

    Attributes:
        gray: The image, 0-255, ``(z, y, x)`` or ``(z, y, x, 3)``.
        labels: On its grid.
        prompts: In coordinates of the slices along ``axis``.
        names: Of the objects.
        axis: Axis whose slices are drawn.
        is_video: Whether the slices are frames of a video.
        title: First line of a sheet.
    """

    gray: NDArray[np.uint8]
    labels: LabelVolume
    prompts: Sequence[ObjectPrompt]
    names: Mapping[int, str]
    axis: int
    is_video: bool
    title: str

    @property
    def frames(self) -> NDArray[np.uint8]:
        """The slices."""
        return frames_along(self.gray, self.axis)

    @property
    def maps(self) -> list[NDArray[Any]]:
        """The label maps in the same slices."""
        return [frames_along(label_map, self.axis) for label_map in self.labels.maps]

    @property
    def colors(self) -> dict[int, Color]:
        """Colours of the objects."""
        ids = sorted(prompt.object_id for prompt in self.prompts)
        return {object_id: color_of(rank) for rank, object_id in enumerate(ids)}

    def panel(self, frame: int) -> Panel:
        """Returns one slice with masks, boxes and points."""
        colors = self.colors
        planes = [label_map[frame] for label_map in self.maps]
        masks = [
            MaskLayer(plane == label, colors[label], "fill")
            for plane in planes
            for label in (int(value) for value in np.unique(plane))
            if label in colors
        ]
        boxes: list[BoxLayer] = []
        prompted = False
        for prompt in self.prompts:
            for part in prompt.slices:
                if part.frame == frame:
                    prompted = True
                    boxes += _marks(part, colors[prompt.object_id], self.frames.shape[1:3])
                    if part.mask is not None:
                        masks.append(MaskLayer(part.mask, WHITE))
        word = "frame" if self.is_video else "slice"
        caption = f"{word} {frame}" if len(self.frames) > 1 else ""
        row_mm, column_mm = (
            mm for axis, mm in enumerate(self.labels.geometry.spacing_mm) if axis != self.axis
        )
        return Panel(
            self.frames[frame],
            f"{caption} - prompted" if prompted and caption else caption,
            masks,
            boxes,
            row_mm / column_mm,
        )


def write_overlay(path: Path, scene: Scene, frames_per_second: Fraction) -> None:
    """Draws a contact sheet (.png) or a film (.mp4), atomically.

    Raises:
        UserError: The file cannot be written, or the extra ``video`` is not installed.
    """
    if file_suffix(path) == ".png":
        write_png(path, draw_sheet(scene), "medsam2-ft segment")
        return
    from medsam2_ft.io.video_write import write_mp4

    write_mp4(path, film(scene), frames_per_second)


def draw_sheet(scene: Scene) -> Pixels:
    """Draws the prompted slices and, evenly among those with a mask, some others."""
    shown = sheet_slices(scene)
    panels = [scene.panel(frame) for frame in shown]
    side = 2 * _PANEL_PX if len(panels) == 1 else _PANEL_PX
    grid = render_grid(panels, math.ceil(math.sqrt(len(panels))), side, crop=True)
    width = grid.shape[1]
    entries = [
        LegendEntry(scene.names.get(object_id, f"object {object_id}"), (color,))
        for object_id, color in scene.colors.items()
    ]
    legend = render_legend(entries[:_MAX_ENTRIES], width)
    return stack([render_text(scene.title, width), grid, legend])


def sheet_slices(scene: Scene, count: int = SHEET_SLICES) -> list[int]:
    """Chooses the slices of a sheet, ascending: at most ``count``, prompted ones first."""
    prompted = sorted({frame for prompt in scene.prompts for frame in prompt.frames})
    # middles of equal parts where there are too many
    chosen = set(_spread(prompted, count))
    masked = [
        frame
        for frame in range(len(scene.frames))
        if frame not in chosen and any(label_map[frame].any() for label_map in scene.maps)
    ]
    return sorted(chosen | set(_spread(masked, count - len(chosen))))


def _spread(frames: Sequence[int], count: int) -> list[int]:
    if len(frames) <= count:
        return list(frames)
    return [frames[int((i + 0.5) * len(frames) / count)] for i in range(count)]


def film(scene: Scene) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yields every slice with its masks; those of volumes carry their number."""
    rows, columns = scene.frames.shape[1:3]
    aspect = scene.panel(0).pixel_aspect
    longest = round(max(rows * aspect, columns))
    side = min(max(longest, _FILM_MIN_PX), _FILM_MAX_PX)
    for frame in range(len(scene.frames)):
        picture = render_panel(scene.panel(frame), side, crop=True)
        yield picture[CAPTION_PX:] if scene.is_video else picture


def _marks(part: SlicePrompt, color: Color, hw: tuple[int, ...]) -> Iterator[BoxLayer]:
    """The box of a prompt, and small squares for its points: red where they are not on it."""
    if part.box_xyxy is not None:
        yield BoxLayer(part.box_xyxy, color)
    reach = np.float32(max(hw) * _POINT_SHARE)
    for point, label in zip(part.points_xy, part.point_labels, strict=True):
        square = np.concatenate([point - reach, point + reach]).astype(np.float32)
        yield BoxLayer(square, WHITE if label else RED)
