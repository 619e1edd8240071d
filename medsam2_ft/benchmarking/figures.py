"""Figures of a benchmark, on paper white, one panel per modality; drawn without a display."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from medsam2_ft.benchmarking.comparison import TESTED, Group, Metric, columns, unit_means
from medsam2_ft.benchmarking.records import Record
from medsam2_ft.benchmarking.settings import KINDS, Kind
from medsam2_ft.io.atomic import atomic_path, make_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too, without the pale yellow.
_COLORS: Final = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#666666")
_MARKERS: Final = "osD^vP*X"
_MAX_NAME: Final = 30
_MAX_COLUMNS: Final = 4
_PANEL_IN: Final = 3.6
_ROW_IN: Final = 0.17
_DISTANCES: Final = 30  # points of a curve; farther apart slices are put together
_MIN_OBJECTS: Final = 3  # what fewer objects say about a distance is not drawn
_POINTS: Final = 60  # values that are shown beside a box, drawn at random where there are more
_MIN_BOX: Final = 5  # fewer values have no quartiles worth drawing; they are shown alone

Panel = tuple[Kind, str]


def write_figures(folder: Path, records: Sequence[Record], groups: Sequence[Group]) -> list[Path]:
    """Draws the comparison, box plots and the curves over the distance from the prompt.

    Args:
        folder: Where the PNG files go; it is made.
        records: At most one of each (case, model, strategy).
        groups: From ``comparison.compare`` on the same records.

    Returns:
        The files; none without a score.

    Raises:
        UserError: A file cannot be written.
    """
    scored = [record for record in records if record.status == "scored"]
    if not scored:
        return []
    names = columns(records)
    figures = {
        "comparison.png": draw_comparison(groups, list(names.values())),
        "boxes_dsc.png": draw_boxes(scored, names, "dsc"),
        "boxes_nsd.png": draw_boxes(scored, names, "nsd"),
    }
    if any(record.kind != "2D" for record in scored):
        figures["distance.png"] = draw_distances(scored, names)
    make_folder(folder)
    for name, figure in figures.items():
        with atomic_path(folder / name) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
    return [folder / name for name in figures]


def draw_comparison(groups: Sequence[Group], names: Sequence[str]) -> "Figure":
    """Means of DSC and NSD with their intervals: a row of points for each modality and kind.

    Args:
        groups: At least one.
        names: Of all columns, for their colours.
    """
    counts = [max(1, len(group.scores["dsc"])) for group in groups]
    rooms = [max(2, count) + 1 for count in counts]  # rows of points; a name takes two
    legend_in = 0.22 * math.ceil(len(names) / 3)
    figure = _figure(12.0, 0.9 + legend_in + _ROW_IN * sum(rooms))
    axes = figure.subplots(1, 2, sharey=True)
    places = np.cumsum([0, *rooms])
    for metric, ax in zip(TESTED, axes, strict=True):
        for number, (group, top) in enumerate(zip(groups, places, strict=False)):
            _draw_points(ax, group, metric, names, int(top))
            if number % 2:
                ax.axhspan(top - 1, places[number + 1] - 1, color="#f2f2f2", lw=0, zorder=0)
        ax.set_xlabel(f"{metric.upper()}, mean and 95 % interval")
        ax.set_xlim(-0.02, 1.02)
        ax.grid(axis="x", alpha=0.3)
    centres = [top + count / 2 - 0.5 for top, count in zip(places, counts, strict=False)]
    labels = [f"{group.modality}, {group.kind}\nn = {group.units}" for group in groups]
    axes[0].set_yticks(centres, labels)
    axes[0].set_ylim(places[-1] - 1, -1)
    _legend(figure, names)
    return figure


def _draw_points(ax: "Axes", group: Group, metric: Metric, names: Sequence[str], top: int) -> None:
    for row, (name, interval) in enumerate(group.scores[metric].items()):
        style = _style(names.index(name))
        y = top + row
        if not math.isnan(interval.low):
            ax.plot([interval.low, interval.high], [y, y], color=style["color"], lw=1.5)
        ax.plot([interval.centre], [y], ls="", ms=6, **style)


def draw_boxes(
    records: Sequence[Record], names: Mapping[tuple[str, str], str], metric: Metric
) -> "Figure":
    """Box plots over patients or cases, a panel per modality and kind, a box per model.

    Args:
        records: Scored ones, at least one.
        names: Name of each column.
        metric: ``dsc`` or ``nsd``.
    """

    def draw(ax: "Axes", own: Sequence[Record]) -> None:
        values = {name: _values(own, key, metric) for key, name in names.items()}
        values = {name: found for name, found in values.items() if len(found)}
        _draw_quartiles(ax, list(values.values()))
        rng = np.random.default_rng(0)
        for place, (name, found) in enumerate(values.items(), start=1):
            shown = found if len(found) <= _POINTS else rng.choice(found, _POINTS, replace=False)
            jitter = place + rng.uniform(-0.18, 0.18, len(shown))
            color = _style(list(names.values()).index(name))["color"]
            ax.plot(shown, jitter, ls="", marker="o", ms=3.5, alpha=0.7, color=color, mew=0)
        ax.set_yticks(range(1, len(values) + 1), [_short(name) for name in values])
        ax.invert_yaxis()
        ax.set_xlim(-0.02, 1.02)
        ax.grid(axis="x", alpha=0.3)

    count = len(names)
    figure, used = _panels(records, draw, panel_height=0.9 + 0.3 * count, shared_names=True)
    for ax in used:
        ax.set_xlabel(metric.upper())
    figure.suptitle(f"{metric.upper()} by patient or case: median, quartiles, whiskers to 1.5 IQR")
    return figure


def _draw_quartiles(ax: "Axes", values: Sequence[Any]) -> None:
    """Horizontal boxes at 1, 2, ... from the top."""
    gray = {"color": "#888888"}
    ax.boxplot(
        [found if len(found) >= _MIN_BOX else [] for found in values],
        orientation="horizontal",
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        medianprops={"color": "black"},
        boxprops={"facecolor": "#eeeeee", "edgecolor": "#888888"},
        whiskerprops=gray,
        capprops=gray,
    )


def _values(records: Sequence[Record], key: tuple[str, str], metric: Metric) -> Any:
    own = [record for record in records if (record.model, record.strategy) == key]
    return np.array(list(unit_means(own, metric).values()), np.float64)


def draw_distances(records: Sequence[Record], names: Mapping[tuple[str, str], str]) -> "Figure":
    """Mean DSC of a slice over its distance from the prompted one, in volumes and videos.

    Args:
        records: Scored ones, of which some are volumes or videos.
        names: Name of each column.
    """
    from matplotlib.ticker import MaxNLocator

    def draw(ax: "Axes", own: Sequence[Record]) -> None:
        farthest = max(_farthest(record) for record in own)
        width = max(1, math.ceil((farthest + 1) / _DISTANCES))
        for index, (key, _) in enumerate(names.items()):
            ours = [record for record in own if (record.model, record.strategy) == key]
            curve = distance_curve(ours, width)
            if curve:
                style = _style(index)
                ax.plot(list(curve), list(curve.values()), ms=4, lw=1.3, alpha=0.9, **style)
        ax.set_xlabel("slices from the prompt" + (f" (bins of {width})" if width > 1 else ""))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_ylim(-0.02, 1.02)
        ax.grid(alpha=0.3)

    volumes = [record for record in records if record.kind != "2D"]
    figure, used = _panels(volumes, draw, panel_height=2.7, shared_names=False)
    for ax in used:
        if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            ax.set_ylabel("DSC of the slice")
    _legend(figure, list(names.values()))
    return figure


def distance_curve(records: Sequence[Record], width: int) -> dict[float, float]:
    """Returns the mean DSC by distance from the prompted slice, both directions together.

    Args:
        records: Of one column.
        width: Slices per bin; the first one begins at distance 0.

    Returns:
        Centre of the bin -> mean over objects of the object's mean, for bins that at least
        three objects reach (or all, where there are fewer). Far bins hold large objects alone.
    """
    bins: dict[int, list[float]] = defaultdict(list)
    count = 0
    for record in records:
        for one in record.objects:
            count += 1
            own: dict[int, list[float]] = defaultdict(list)
            for frame, dsc in enumerate(one.slice_dsc, start=one.first):
                if not math.isnan(dsc):
                    own[abs(frame - one.prompt_frame) // width].append(dsc)
            for number, values in own.items():
                bins[number].append(float(np.mean(values)))
    least = min(_MIN_OBJECTS, count)
    return {
        number * width + (width - 1) / 2: float(np.mean(values))
        for number, values in sorted(bins.items())
        if len(values) >= least
    }


def _farthest(record: Record) -> int:
    return max(
        max(one.prompt_frame - one.first, one.last - one.prompt_frame) for one in record.objects
    )


def _panels(
    records: Sequence[Record],
    draw: Callable[["Axes", Sequence[Record]], None],
    *,
    panel_height: float,
    shared_names: bool,
) -> tuple["Figure", list["Axes"]]:
    """A grid of panels, one per kind and modality, each drawn by ``draw``."""
    panels: dict[Panel, list[Record]] = {}
    for record in sorted(records, key=lambda r: (KINDS.index(r.kind), r.modality)):
        panels.setdefault((record.kind, record.modality), []).append(record)
    across = min(_MAX_COLUMNS, len(panels))
    down = math.ceil(len(panels) / across)
    figure = _figure(max(6.5, _PANEL_IN * across + 1.2), 0.9 + panel_height * down)
    grid = figure.subplots(down, across, squeeze=False, sharey=shared_names)
    used = list(grid.flat)[: len(panels)]
    for ax in list(grid.flat)[len(panels) :]:
        ax.remove()
    for ax, ((kind, modality), own) in zip(used, panels.items(), strict=True):
        draw(ax, own)
        units = len({(record.dataset, record.group) for record in own})
        ax.set_title(f"{modality}, {kind} (n = {units})", fontsize=10)
    return figure, used


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _style(index: int) -> dict[str, Any]:
    """Colour and marker of a column; both together are unique for 56 columns."""
    return {"color": _COLORS[index % len(_COLORS)], "marker": _MARKERS[index % len(_MARKERS)]}


def _legend(figure: "Figure", names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], ls="", ms=6, label=_short(name), **_style(index))
        for index, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)


def _short(name: str) -> str:
    """A name that fits beside an axis; long ones lose their middle."""
    half = (_MAX_NAME - 3) // 2
    return name if len(name) <= _MAX_NAME else f"{name[:half]}...{name[-half:]}"
