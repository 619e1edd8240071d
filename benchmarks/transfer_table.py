"""Means, intervals and the table of benchmarks/transfer.py."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transfer_cases import patient_of

RESAMPLES = 10_000
BASE = "ours"
Items = dict[tuple[str, str, int], float]
"""Value by case, modality and slice (-1: the volume)."""


def bootstrap(values: dict[str, NDArray[np.float64]]) -> tuple[float, float, float]:
    """Mean over patients of their means, with a 95 % interval.

    Args:
        values: Values of each patient's slices or objects.

    Returns:
        Mean, lower and upper bound. Patients are drawn with replacement, and within each drawn
        patient its values are: with so few patients the interval is too narrow rather than too
        wide.
    """
    rng = np.random.default_rng(0)
    patients = list(values.values())
    n = len(patients)
    # One resampled mean of every patient for every place in the resample.
    means = np.stack(
        [
            own[rng.integers(len(own), size=(RESAMPLES, n, len(own)))].mean(axis=2)
            for own in patients
        ]
    )
    drawn = rng.integers(n, size=(RESAMPLES, n))
    resampled = means[drawn, np.arange(RESAMPLES)[:, None], np.arange(n)].mean(axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(np.mean([own.mean() for own in patients])), float(low), float(high)


def items_of(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, Items]]:
    """Values by trial and metric, means over the seeds."""
    values: dict[str, dict[str, dict[Any, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for record in records:
        own = values[record["trial"]]
        for case, modality, frame, dsc, dsc_box in record["slices"]:
            own["2D DSC"][case, modality, frame].append(dsc)
            values["filled box"]["2D DSC"][case, modality, frame].append(dsc_box)
        for case, modality, dsc, nsd in record["objects"]:
            own["3D DSC"][case, modality, -1].append(dsc)
            own["3D NSD"][case, modality, -1].append(nsd)
    return {
        trial: {
            metric: {key: float(np.mean(seeds)) for key, seeds in items.items()}
            for metric, items in metrics.items()
        }
        for trial, metrics in values.items()
    }


def by_patient(items: Items, modality: str | None = None) -> dict[str, NDArray[np.float64]]:
    """Groups values by patient; of one modality, or of all."""
    groups: dict[str, list[float]] = defaultdict(list)
    for (case, own, _), value in sorted(items.items()):
        if modality in (None, own):
            groups[patient_of(case)].append(value)
    return {patient: np.array(values) for patient, values in groups.items()}


def summarize(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means with intervals of every trial and metric, and paired differences from ``ours``."""
    values = items_of(records)
    result: dict[str, Any] = {}
    for trial, metrics in values.items():
        runs = [r for r in records if r["trial"] == trial]
        result[trial] = {"encoded": sorted({r["encoded"] for r in runs}), "runs": len(runs)}
        for metric, items in metrics.items():
            row: dict[str, Any] = {"mean": bootstrap(by_patient(items))}
            row["by_modality"] = {
                m: float(np.mean([v.mean() for v in by_patient(items, m).values()]))
                for m in sorted({key[1] for key in items})
            }
            row["items"] = len(items)
            base = values.get(BASE, {}).get(metric, {})
            if trial != BASE and items.keys() == base.keys():
                paired = {key: value - base[key] for key, value in items.items()}
                row["minus_ours"] = bootstrap(by_patient(paired))
            result[trial][metric] = row
    return result


def cell(values: Sequence[float] | None, sign: str = "") -> str:
    """Mean and interval."""
    if values is None:
        return ""
    mean, low, high = values
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def print_table(result: dict[str, Any]) -> None:
    """Prints a Markdown table."""
    print("| trial | 2D DSC | minus ours | 3D DSC | minus ours | 3D NSD |")
    print("| --- | --- | --- | --- | --- | --- |")
    for trial, row in result["trials"].items():
        cells = [trial]
        for metric in ("2D DSC", "3D DSC"):
            own = row.get(metric, {})
            cells += [cell(own.get("mean")), cell(own.get("minus_ours"), "+")]
        cells.append(cell(row.get("3D NSD", {}).get("mean")))
        print(f"| {' | '.join(cells)} |")
    print()
    columns = [f"{m} {k}" for k in ("2D", "3D") for m in ("CT", "MR", "PET")]
    print(f"| trial | {' | '.join(columns)} |")
    print("| --- " * (1 + len(columns)) + "|")
    for trial, row in result["trials"].items():
        means = [
            row.get(metric, {}).get("by_modality", {}).get(m)
            for metric in ("2D DSC", "3D DSC")
            for m in ("CT", "MR", "PET")
        ]
        texts = ["" if v is None else f"{v:.3f}" for v in means]
        print(f"| {trial} | {' | '.join(texts)} |")
