"""Contact sheets: a case as a grid of slices with its labels, their boxes and a legend."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from medsam2_ft.inspection.facts import kind_of
from medsam2_ft.inspection.layout import (
    LegendEntry,
    Pixels,
    flow,
    render_legend,
    render_text,
    stack,
)
from medsam2_ft.inspection.summary import rule_text
from medsam2_ft.intensity import label_ids
from medsam2_ft.overlays import BoxLayer, Color, MaskLayer, Panel, color_of, render_grid
from medsam2_ft.prompts import mask_to_box
from medsam2_ft.types import Case

SHEET_PX = 1800
"""Width that cases fill side by side."""

LARGE_PX = 384
SMALL_PX = 256
_GAP_PX = 16
_MAX_ENTRIES = 16
_NAME_COLOR: Color = (255, 214, 102)


def draw_case(case: Case, slices: int, *, alone: bool) -> Pixels:
    """Draws one case: its name, what it is, slices, legend.

    Args:
        case: The case; without labels, slices are taken from its whole depth.
        slices: The most slices (of a video: frames) that are drawn.
        alone: Whether the case has a sheet of its own: larger pictures, in several rows.
    """
    shown = choose_slices(case, slices)
    colors = label_colors(case)
    columns = math.ceil(math.sqrt(len(shown))) if alone else len(shown)
    panels = [_panel(case, z, colors) for z in shown]
    grid = render_grid(panels, columns, LARGE_PX if alone else SMALL_PX, crop=True)
    width = grid.shape[1]
    name = render_text(case.name, width, _NAME_COLOR)
    return stack([name, render_text(describe(case), width), grid, _legend(case, colors, width)])


def draw_cases(title: str, blocks: Sequence[Pixels]) -> Pixels:
    """Puts drawn cases on one sheet.

    Args:
        title: First line.
        blocks: What ``draw_case`` returned, at least one.
    """
    sheet = flow(blocks, SHEET_PX, _GAP_PX)
    return stack([render_text(title, sheet.shape[1]), sheet])


def choose_slices(case: Case, count: int) -> list[int]:
    """Chooses slices: of a volume evenly among those with labels, of a video among all frames.

    Args:
        case: The case.
        count: The most slices, >= 1.

    Returns:
        Ascending; one slice of a 2D image.
    """
    depth = case.image.shape[0]
    candidates = list(range(depth))
    if not case.is_video:
        labelled = [
            z for z in candidates if any(label_map[z].any() for label_map in case.label_maps)
        ]
        candidates = labelled or candidates
    if len(candidates) <= count:
        return candidates
    # middles of equal parts, because first and last slices show next to nothing of an object
    steps = (np.arange(count) + 0.5) * len(candidates) / count
    return [candidates[int(step)] for step in steps]


def label_colors(case: Case) -> dict[int, Color]:
    """Returns a colour for every label id that occurs, in ascending order; they repeat."""
    ids = sorted(label for label_map in case.label_maps for label in label_ids(label_map))
    return {label: color_of(rank) for rank, label in enumerate(ids)}


def describe(case: Case) -> str:
    """Says what a case is: modality, size, spacing, intensity rule."""
    kind = kind_of(case)
    depth, height, width = case.image.shape[:3]
    size = f"{height} x {width}" if kind == "2D" else f"{depth} x {height} x {width}"
    parts = [f"{case.modality or 'modality unknown'} {kind}", size]
    if kind == "3D":
        spacing = " x ".join(f"{value:.3g}" for value in case.geometry.spacing_mm)
        parts.append(f"{spacing} mm (z, y, x)")
    return ", ".join([*parts, rule_text(case.intensity)])


def _panel(case: Case, z: int, colors: Mapping[int, Color]) -> Panel:
    planes = [label_map[z] for label_map in case.label_maps]
    masks = {label: plane == label for plane in planes for label in label_ids(plane[None])}
    _, row_mm, column_mm = case.geometry.spacing_mm
    kind = kind_of(case)
    return Panel(
        image=case.image[z],
        caption={"2D": "", "3D": f"slice {z}", "video": f"frame {z}"}[kind],
        masks=[MaskLayer(mask, colors[label], "fill") for label, mask in masks.items()],
        boxes=[
            BoxLayer(box, colors[label])
            for label, mask in masks.items()
            if (box := mask_to_box(mask)) is not None
        ],
        pixel_aspect=row_mm / column_mm,
    )


def _legend(case: Case, colors: Mapping[int, Color], width_px: int) -> Pixels:
    """Objects of one name are one entry."""
    if not colors:
        return render_text("no labels", width_px)
    named: dict[str, list[Color]] = {}
    for label, color in colors.items():
        named.setdefault(case.label_names.get(label, f"label {label}"), []).append(color)
    entries = [
        LegendEntry(name if len(group) == 1 else f"{name} ({len(group)} objects)", tuple(group))
        for name, group in named.items()
    ]
    legend = render_legend(entries[:_MAX_ENTRIES], width_px)
    hidden = len(entries) - _MAX_ENTRIES
    if hidden <= 0:
        return legend
    return stack([legend, render_text(f"and {hidden} more labels; colours repeat", width_px)])
