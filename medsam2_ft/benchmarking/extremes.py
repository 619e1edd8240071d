"""Pictures of the worst and the best cases: image, truth, prediction and box."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool

from medsam2_ft.benchmarking.peeks import unpack_mask
from medsam2_ft.benchmarking.records import ObjectRecord, Record
from medsam2_ft.errors import UserError
from medsam2_ft.inspection.layout import LegendEntry, render_legend, render_text, stack
from medsam2_ft.io.atomic import make_folder
from medsam2_ft.io.npz import read_case
from medsam2_ft.overlays import (
    BoxLayer,
    Color,
    MaskLayer,
    Panel,
    render_grid,
    write_png,
)
from medsam2_ft.types import Case

TRUTH: Final[Color] = (0, 190, 140)
PREDICTION: Final[Color] = (240, 110, 40)
BOX: Final[Color] = (245, 235, 70)
_SIDE_PX: Final = 300
_LEGEND: Final = (
    LegendEntry("truth", (TRUTH,)),
    LegendEntry("prediction", (PREDICTION,)),
    LegendEntry("box prompt", (BOX,)),
)

Chosen = tuple[Record, ObjectRecord]


def write_extremes(
    folder: Path, records: Sequence[Record], names: Mapping[tuple[str, str], str], count: int
) -> tuple[list[Path], list[str]]:
    """Draws a picture per model and modality: the worst objects above, the best below.

    Each object shows its prompted slice and, in volumes and videos, the slice with the lowest
    DSC. Images are read from the case files again.

    Args:
        folder: Where the PNG files go; it is made.
        records: At most one of each (case, model, strategy).
        names: Name of each column.
        count: Objects at either end, at most one of a case; 0 draws nothing.

    Returns:
        The files, and lines about cases that are not there any more.

    Raises:
        UserError: A picture cannot be written.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        if record.status == "scored" and count > 0:
            column = names[record.model, record.strategy]
            groups.setdefault((column, record.modality, record.kind), []).append(record)
    files: list[Path] = []
    missing: dict[str, None] = {}
    for (column, modality, kind), own in groups.items():
        rows = []
        worst, best = choose_extremes(own, count)
        for title, chosen in (("worst", worst), ("best", best)):
            panels = [panel for one in chosen for panel in _panels(one, missing)]
            if panels:
                across = max(2, min(6, len(panels)))
                rows += [
                    render_text(f"{column}, {modality} ({kind}): {title}", across * _SIDE_PX),
                    render_grid(panels, across, _SIDE_PX, crop=True),
                ]
        if rows:
            width = max(row.shape[1] for row in rows)
            path = folder / f"{_file_name(column)}-{modality}-{kind}.png"
            make_folder(folder)
            write_png(path, stack([*rows, render_legend(_LEGEND, width)]))
            files.append(path)
    return files, list(missing)


def choose_extremes(records: Sequence[Record], count: int) -> tuple[list[Chosen], list[Chosen]]:
    """Returns the objects with the lowest and those with the highest DSC, the extreme one first.

    Args:
        records: Scored ones of one column.
        count: At most so many of either; a case has at most one in each, and none is in both.
    """
    ends: list[list[Chosen]] = []
    for sign in (1, -1):
        of_cases = [
            (r, min(r.objects, key=lambda one: (sign * one.dsc, one.label))) for r in records
        ]
        ordered = sorted(of_cases, key=lambda c: (sign * c[1].dsc, c[0].case_key, c[1].label))
        ends.append(ordered[:count])
    worst, best = ends
    shown = {(record.key, one.label) for record, one in worst}
    return worst, [(r, one) for r, one in best if (r.key, one.label) not in shown]


def _panels(chosen: Chosen, missing: dict[str, None]) -> list[Panel]:
    """The slices of an object that were kept; none where the case has changed or gone."""
    record, one = chosen
    try:
        case = read_case(Path(record.path))
        masks = {
            int(frame): unpack_mask(text, (case.image.shape[1], case.image.shape[2]))
            for frame, text in one.peeks.items()
        }
    except (UserError, ValueError) as error:
        missing[f"no picture of {record.dataset}/{record.case}: {error}"] = None
        return []
    return [_panel(record, one, case, frame, mask) for frame, mask in masks.items()]


def _panel(
    record: Record, one: ObjectRecord, case: Case, frame: int, mask: Bool[np.ndarray, "h w"]
) -> Panel:
    truth = _truth(case, one, frame)
    prompted = frame == one.prompt_frame
    dsc = one.slice_dsc[frame - one.first]
    place = "" if len(case.image) == 1 else f" (slice {frame}: {dsc:.2f})"
    box = np.asarray(one.box_xyxy, np.float32)
    _, spacing_y, spacing_x = case.geometry.spacing_mm
    return Panel(
        image=case.image[frame],
        caption=f"DSC {one.dsc:.2f}{place} {record.case}: {one.label_name}",
        masks=(
            MaskLayer(mask, PREDICTION, "fill"),
            MaskLayer(truth, TRUTH, "outline"),
        ),
        boxes=(BoxLayer(box, BOX),) if prompted else (),
        pixel_aspect=1.0 if case.is_video else spacing_y / spacing_x,
    )


def _truth(case: Case, one: ObjectRecord, frame: int) -> Bool[np.ndarray, "h w"]:
    """The object's mask; a region has a negative label and is made of several."""
    ids = [one.label] if one.label > 0 else list(case.regions.get(one.label_name, ()))
    inside = np.zeros(case.image.shape[1:3], bool)
    for label_map in case.label_maps:
        inside |= np.isin(label_map[frame], ids)
    return inside


def _file_name(text: str) -> str:
    """A name without what file systems give a meaning."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text)
