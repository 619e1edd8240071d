"""One figure of a folder of cases, on paper white; drawn without a display."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medsam2_ft.inspection.facts import HISTOGRAM_BINS, CaseFacts, LabelFacts
from medsam2_ft.inspection.summary import NO_SPLIT, UNKNOWN
from medsam2_ft.io.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LABELS = 24
"""Labels that the figure shows; the most frequent ones."""

_SPLIT_COLORS = {"train": "#0072B2", "val": "#E69F00", "test": "#009E73", NO_SPLIT: "#999999"}
_MARKERS = "osD^vP*Xh<>"
_MAX_NAME = 28


def write_figure(path: Path, cases: Sequence[CaseFacts]) -> None:
    """Draws the figure as PNG.

    Args:
        path: The file; its folder exists.
        cases: At least one.

    Raises:
        UserError: The file cannot be written.
    """
    figure = draw_figure(cases)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def draw_figure(cases: Sequence[CaseFacts]) -> "Figure":
    """Cases per modality, sizes, spacings, label volumes and gray values.

    Args:
        cases: At least one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = {_row_name(case, label) for case in cases for label in case.labels}
    rows = min(MAX_LABELS, len(names))
    figure = Figure(figsize=(15, max(9.0, 5.0 + 0.28 * rows)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 3)
    groups: dict[str, list[CaseFacts]] = defaultdict(list)
    for case in cases:
        groups[case.modality or UNKNOWN].append(case)
    ordered = dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))
    styles = {name: _style(index) for index, name in enumerate(ordered)}
    _draw_counts(figure.add_subplot(grid[0, 0]), ordered)
    _draw_sizes(figure.add_subplot(grid[0, 1]), ordered, styles)
    _draw_spacings(figure.add_subplot(grid[0, 2]), ordered, styles)
    _draw_labels(figure.add_subplot(grid[1, :2]), cases)
    _draw_gray(figure.add_subplot(grid[1, 2]), ordered, styles)
    return figure


def _style(index: int) -> dict[str, Any]:
    """Colour and marker of a modality, so that each differs from the others in both."""
    from matplotlib import colormaps

    return {
        "color": colormaps["tab20"](index % 10 * 2 + index // 10 % 2),
        "marker": _MARKERS[index % len(_MARKERS)],
    }


def _draw_counts(axes: "Axes", groups: dict[str, list[CaseFacts]]) -> None:
    from matplotlib.ticker import MaxNLocator

    names = list(groups)
    left = np.zeros(len(names))
    for split, color in _SPLIT_COLORS.items():
        counts = np.array(
            [sum((case.split or NO_SPLIT) == split for case in groups[name]) for name in names]
        )
        if counts.any():
            axes.barh(names, counts, left=left, color=color, label=split)
            left += counts
    for row, total in enumerate(left):
        axes.annotate(f" {total:.0f}", (total, row), va="center", fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(title="Cases", xlabel="number of cases")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)


def _draw_sizes(
    axes: "Axes", groups: dict[str, list[CaseFacts]], styles: dict[str, dict[str, Any]]
) -> None:
    for name, cases in groups.items():
        sides = [np.sqrt(case.size_zyx[1] * case.size_zyx[2]) for case in cases]
        depths = [case.size_zyx[0] for case in cases]
        axes.plot(sides, depths, linestyle="", alpha=0.7, label=name, **styles[name])
    axes.set(
        title="Sizes",
        xlabel="mean side of a slice (pixels)",
        ylabel="slices or frames",
        xscale="log",
        yscale="log",
    )
    _plain_ticks(axes)
    axes.legend(fontsize=8)


def _draw_spacings(
    axes: "Axes", groups: dict[str, list[CaseFacts]], styles: dict[str, dict[str, Any]]
) -> None:
    shown = False
    for name, cases in groups.items():
        volumes = [case.spacing_mm for case in cases if case.kind == "3D"]
        if volumes:
            shown = True
            pixels, slices = [max(s[1:]) for s in volumes], [s[0] for s in volumes]
            axes.plot(pixels, slices, linestyle="", alpha=0.7, label=name, **styles[name])
    axes.set(title="Voxel size of volumes", xlabel="pixel (mm)", ylabel="slice distance (mm)")
    if not shown:
        axes.text(0.5, 0.5, "no volumes", ha="center", transform=axes.transAxes)
        return
    axes.set(xscale="log", yscale="log")
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color="0.8", zorder=0, label="isotropic")
    _plain_ticks(axes)
    axes.legend(fontsize=8)


def _plain_ticks(axes: "Axes") -> None:
    """Numbers instead of powers of ten on logarithmic axes, few enough to be read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _row_name(case: CaseFacts, label: LabelFacts) -> str:
    name = label.name or f"label {label.id}"
    short = name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 3] + "..."
    return f"{case.modality or UNKNOWN}: {short}"


def _draw_labels(axes: "Axes", cases: Sequence[CaseFacts]) -> None:
    """Every case's volume of every label as a point, on one row per label."""
    sizes: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for case in cases:
        for label in case.labels:
            volume = label.volume_mm3
            point = (label.voxels, False) if volume is None else (volume / 1000, True)
            sizes[_row_name(case, label)].append(point)
    frequent = sorted(sizes, key=lambda key: -len(sizes[key]))[:MAX_LABELS]
    frequent.sort()
    flat = axes.twiny()
    for row, key in enumerate(frequent):
        for side, in_ml, color, marker in (
            (axes, True, "#0072B2", "o"),
            (flat, False, "#D55E00", "s"),
        ):
            values = [value for value, volume in sizes[key] if volume == in_ml]
            if values:
                side.plot(values, [row] * len(values), marker, color=color, alpha=0.6)
    axes.set_yticks(range(len(frequent)), frequent, fontsize=8)
    axes.set_ylim(max(len(frequent), 1) - 0.5, -0.5)
    axes.grid(axis="y", color="0.9")
    hidden = len(sizes) - len(frequent)
    axes.set_title("Size of every label in every case" + (f" ({hidden} more)" if hidden else ""))
    for side, text, color in (
        (axes, "volume in 3D cases (ml, dots)", "#0072B2"),
        (flat, "pixels in images and videos (squares)", "#D55E00"),
    ):
        if side.lines:
            side.set_xscale("log")
        else:
            side.set_xticks([])
        side.set_xlabel(text if side.lines else "", color=color)


def _draw_gray(
    axes: "Axes", groups: dict[str, list[CaseFacts]], styles: dict[str, dict[str, Any]]
) -> None:
    """Mean share of every gray value; each case counts the same, whatever its size."""
    centres = (np.arange(HISTOGRAM_BINS) + 0.5) * 256 / HISTOGRAM_BINS
    for name, cases in groups.items():
        counts = np.array([case.histogram for case in cases], np.float64)
        shares = (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0) * 100
        axes.plot(centres, np.maximum(shares, 1e-2), color=styles[name]["color"], label=name)
    axes.set(title="Gray values", xlabel="gray value", ylabel="share of voxels (%)", yscale="log")
    _plain_gray(axes)
    axes.legend(fontsize=8)


def _plain_gray(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_xlim(0, 256)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
