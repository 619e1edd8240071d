"""The short tables: the comparison of models as JSON and Markdown, costs, and what is missing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from medsam2_ft.benchmarking.comparison import METRICS, TESTED, Group, Metric, columns
from medsam2_ft.benchmarking.records import Record
from medsam2_ft.benchmarking.settings import KINDS, Settings, unit_of
from medsam2_ft.benchmarking.statistics import MIN_PAIRS, RESAMPLES

SIGNIFICANT: Final = 0.05
_KIND_TITLES: Final = {"2D": "Images", "3D": "Volumes", "video": "Videos"}


@dataclass(frozen=True)
class Benchmark:
    """What a run or several merged runs found.

    Attributes:
        settings: Prompts and scoring, the same for all records.
        records: At most one of each (case, model, strategy), sorted.
        groups: From ``comparison.compare``.
        skipped: Models that were not run -> why.
        notes: What a reader should know besides.
    """

    settings: Settings
    records: Sequence[Record]
    groups: Sequence[Group]
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def to_json(benchmark: Benchmark) -> dict[str, Any]:
    """Returns everything but the single scores; undefined numbers become null when written."""
    return {
        "settings": benchmark.settings.to_json(),
        "statistics": {
            "unit": "patient where manifest.json names patients, else case",
            "interval": f"95 %, percentile bootstrap over units, {RESAMPLES} resamples",
            "test": "Wilcoxon signed-rank, two-sided, paired by unit; Holm over all pairs of "
            "models of one kind, modality and metric",
            "hd95": "median over units, infinite for an object of which nothing was found",
        },
        "groups": [asdict(group) for group in benchmark.groups],
        "costs": _costs(benchmark.records),
        "skipped_models": dict(benchmark.skipped),
        "failures": [_problem(r) for r in benchmark.records if r.status == "failed"],
        "without_objects": [_problem(r) for r in benchmark.records if r.status == "empty"],
        "notes": list(benchmark.notes),
    }


def to_markdown(benchmark: Benchmark) -> str:
    """Returns the summary for readers; ends with a line feed."""
    parts = ["# Benchmark", _intro(benchmark)]
    for kind in KINDS:
        groups = [group for group in benchmark.groups if group.kind == kind]
        if groups:
            parts.append(f"## {_KIND_TITLES[kind]} ({kind})")
            parts += [_metric_table(groups, metric) for metric in METRICS]
    parts += _differences(benchmark.groups)
    parts += _cost_table(benchmark.records)
    parts += _problems(benchmark)
    return "\n\n".join(parts) + "\n"


def _intro(benchmark: Benchmark) -> str:
    s = benchmark.settings
    noise = f", box noise up to {s.box_noise_px} px (seed {s.seed})" if s.box_noise_px else ""
    special = "".join(f", {name} {value:g}" for name, value in sorted(s.tolerances.items()))
    range_text = {"object": "the object's own slices", "full": "all slices"}[s.z_range]
    return (
        f"- One box per object; protocol `{s.protocol}`, margin {s.margin_px:g} px{noise} "
        f"(pixels of a 1024 input). Segmented and scored: {range_text}.\n"
        f"- NSD tolerance: volumes {s.tolerance_mm:g} mm, images and videos "
        f"{s.tolerance_px:g} px{special}. HD95 in the same units.\n"
        "- DSC and NSD: mean over units [95 % bootstrap interval]; HD95: median, infinite "
        "where nothing was found. A unit is a patient where the data names patients, else a "
        "case; it scores the mean of its cases, a case the mean of its objects.\n"
        f"- **Bold**: best. p: that model against the best one (Wilcoxon, Holm-corrected for "
        f"all pairs of the row; `*` below {SIGNIFICANT:g}); none with fewer than "
        f"{MIN_PAIRS} units. With few units, intervals are too narrow as well."
    )


def _metric_table(groups: Sequence[Group], metric: Metric) -> str:
    names = list(dict.fromkeys(name for group in groups for name in group.scores[metric]))
    unit = f" ({unit_of(groups[0].kind)}, median)" if metric == "hd95" else ""
    rows = [[f"{metric.upper()}{unit}", "units / cases / objects", *names]]
    for group in groups:
        best = group.best(metric)
        counts = f"{group.units} / {group.cases} / {group.objects}"
        cells = [_score_cell(group, metric, name, best) for name in names]
        rows.append([group.modality, counts, *cells])
    return markdown_table(rows)


def _score_cell(group: Group, metric: Metric, name: str, best: str | None) -> str:
    interval = group.scores[metric].get(name)
    if interval is None or math.isnan(interval.centre):
        return "-"
    digits = 1 if metric == "hd95" else 3
    centre = number(interval.centre, digits)
    is_best = best is not None and interval.centre == group.scores[metric][best].centre
    text = f"**{centre}**" if is_best else centre
    if not math.isnan(interval.low):
        text += f" [{number(interval.low, digits)}, {number(interval.high, digits)}]"
    if best is not None and not is_best:
        difference = group.difference(metric, name, best)
        if difference is not None and not math.isnan(difference.p_holm):
            text += f" {p_text(difference.p_holm)}"
    return text


def number(value: float, digits: int) -> str:
    """Returns a number for readers; infinity as ``∞``, NaN as a dash."""
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}f}" if math.isfinite(value) else "∞"


def p_text(p: float) -> str:
    """Returns ``p=0.032*``, the star where it is significant."""
    shown = "p<0.001" if p < 0.001 else f"p={p:.3f}"
    return f"{shown}*" if p < SIGNIFICANT else shown


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; the first row is its head."""
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    escaped.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def _differences(groups: Sequence[Group]) -> list[str]:
    rows = [["", "metric", "models", "mean difference", "n", "p", "p (Holm)"]]
    for group in groups:
        for metric in TESTED:
            for d in group.differences:
                if d.metric != metric:
                    continue
                tested = not math.isnan(d.test.p)
                rows.append(
                    [
                        f"{group.modality}, {group.kind}",
                        metric.upper(),
                        f"{d.first} - {d.second}",
                        f"{d.test.mean_difference:+.3f}",
                        str(d.test.n),
                        p_text(d.test.p).rstrip("*") if tested else "not tested",
                        p_text(d.p_holm) if tested else d.test.reason,
                    ]
                )
    if len(rows) == 1:
        return []
    return ["## Pairs of models", markdown_table(rows)]


def _costs(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Time and memory of each column."""
    costs = []
    for (model, strategy), name in columns(records).items():
        own = [
            r
            for r in records
            if (r.model, r.strategy) == (model, strategy) and r.status == "scored"
        ]
        if not own:
            continue
        cuda = [r.peak_cuda_mb for r in own if not math.isnan(r.peak_cuda_mb)]
        costs.append(
            {
                "column": name,
                "model": model,
                "strategy": strategy,
                "cases": len(own),
                "median_seconds_per_case": float(np.median([r.seconds for r in own])),
                "median_seconds_per_frame": float(np.median([r.seconds / r.frames for r in own])),
                "peak_rss_mb": max(r.peak_rss_mb for r in own),
                "peak_cuda_mb": max(cuda) if cuda else None,
                "devices": sorted({r.device for r in own}),
            }
        )
    return costs


def _cost_table(records: Sequence[Record]) -> list[str]:
    rows = [["model", "cases", "s per case", "s per slice", "peak RSS", "peak GPU", "device"]]
    for cost in _costs(records):
        cuda = cost["peak_cuda_mb"]
        rows.append(
            [
                cost["column"],
                str(cost["cases"]),
                f"{cost['median_seconds_per_case']:.2f}",
                f"{cost['median_seconds_per_frame']:.3f}",
                f"{cost['peak_rss_mb']:.0f} MiB",
                "-" if cuda is None else f"{cuda:.0f} MiB",
                ", ".join(cost["devices"]),
            ]
        )
    if len(rows) == 1:
        return []
    return [
        "## Time and memory",
        "Medians over cases, all objects of a case together; memory of the process.",
        markdown_table(rows),
    ]


def _problem(record: Record) -> dict[str, str]:
    names = ("dataset", "case", "model", "strategy", "reason")
    return {name: str(getattr(record, name)) for name in names}


def _problems(benchmark: Benchmark) -> list[str]:
    parts: list[str] = []
    lines = [f"- {name}: {reason}" for name, reason in benchmark.skipped.items()]
    if lines:
        parts += ["## Models that were not run", "\n".join(lines)]
    failed = [r for r in benchmark.records if r.status == "failed"]
    if failed:
        rows = [["data set", "case", "model", "strategy", "reason"]]
        rows += [list(_problem(record).values()) for record in failed]
        parts += ["## Failures", markdown_table(rows)]
    empty = list(dict.fromkeys(r.case_key for r in benchmark.records if r.status == "empty"))
    if empty:
        listed = "\n".join(f"- {dataset}: {case}" for dataset, case in empty)
        parts += ["## Cases without an object (not scored)", listed]
    dropped = [
        f"- {g.modality}, {g.kind}: {g.left_out} cases count for no model, because not every "
        "model has a result for them"
        for g in benchmark.groups
        if g.left_out
    ]
    notes = dropped + [f"- {note}" for note in benchmark.notes]
    if notes:
        parts += ["## Notes", "\n".join(notes)]
    return parts
