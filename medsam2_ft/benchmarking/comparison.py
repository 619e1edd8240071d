"""From records to the comparison of models: means by modality, intervals, corrected tests.

The unit is the patient where the data set's manifest knows patients, else the case. A case scores
the mean of its objects, a unit the mean of its cases: a patient with ten tumours counts as much as
one with a single tumour, and resampling keeps together what belongs together.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from medsam2_ft.benchmarking.records import Record
from medsam2_ft.benchmarking.settings import KINDS, Kind
from medsam2_ft.benchmarking.statistics import (
    Interval,
    PairedTest,
    bootstrap_interval,
    holm,
    paired_test,
)

Metric = Literal["dsc", "nsd", "hd95"]
METRICS: Final[tuple[Metric, ...]] = get_args(Metric)
TESTED: Final[tuple[Metric, ...]] = ("dsc", "nsd")
"""HD95 is infinite for a missed object, so that its differences may be undefined."""
ALL: Final = "all"

Unit = tuple[str, str]  # data set and patient or case


@dataclass(frozen=True)
class Difference:
    """Two models compared on the same units.

    Attributes:
        metric: ``dsc`` or ``nsd``.
        first: Name of a column.
        second: Name of another.
        test: Of the first minus the second.
        p_holm: Corrected for all pairs of columns of this group and metric; NaN without a test.
    """

    metric: Metric
    first: str
    second: str
    test: PairedTest
    p_holm: float


@dataclass(frozen=True)
class Group:
    """All columns on the cases of one kind and modality.

    Attributes:
        kind: Image, volume or video.
        modality: Or ``all`` for those of every modality together.
        cases: Number of cases that count.
        objects: Number of objects in them.
        units: Number of patients or cases.
        left_out: Cases that not every column has a result for; they count for none.
        scores: Metric -> column -> mean (HD95: median) over units.
        differences: All pairs of columns.
    """

    kind: Kind
    modality: str
    cases: int
    objects: int
    units: int
    left_out: int
    scores: Mapping[Metric, Mapping[str, Interval]]
    differences: Sequence[Difference]

    def best(self, metric: Metric) -> str | None:
        """Returns the column with the best centre; None where nothing is defined."""
        sign = -1.0 if metric == "hd95" else 1.0
        defined = {c: i.centre for c, i in self.scores[metric].items() if not math.isnan(i.centre)}
        return max(defined, key=lambda column: sign * defined[column]) if defined else None

    def difference(self, metric: Metric, first: str, second: str) -> Difference | None:
        """Returns the comparison of two columns, whichever of them comes first."""
        for difference in self.differences:
            same = {difference.first, difference.second} == {first, second}
            if difference.metric == metric and same:
                return difference
        return None


def columns(records: Iterable[Record]) -> dict[tuple[str, str], str]:
    """Names what is compared: by (model, strategy), in the order of appearance.

    The strategy is left out where it is the same everywhere.
    """
    found = list(dict.fromkeys((record.model, record.strategy) for record in records))
    if len({strategy for _, strategy in found}) == 1:
        return {key: key[0] for key in found}
    return {(model, strategy): f"{model} ({strategy})" for model, strategy in found}


def compare(records: Sequence[Record], *, seed: int = 0) -> list[Group]:
    """Compares all columns by kind and modality.

    Args:
        records: At most one of each (case, model, strategy).
        seed: Of the bootstrap.

    Returns:
        Groups by kind, then modality; each kind with several modalities has ``all`` at its end.
    """
    scored = [record for record in records if record.status == "scored"]
    groups = []
    for kind in KINDS:
        own = [record for record in scored if record.kind == kind]
        modalities = sorted({record.modality for record in own})
        for modality in modalities:
            of_modality = [record for record in own if record.modality == modality]
            groups.append(_compare_group(kind, modality, of_modality, records, seed))
        if len(modalities) > 1:
            groups.append(_compare_group(kind, ALL, own, records, seed))
    return groups


def _compare_group(
    kind: Kind, modality: str, own: Sequence[Record], every: Sequence[Record], seed: int
) -> Group:
    names = columns(every)
    by_column: dict[str, list[Record]] = {}
    for record in own:
        by_column.setdefault(names[record.model, record.strategy], []).append(record)
    ordered = {name: by_column[name] for name in names.values() if name in by_column}
    shared = set.intersection(*({r.case_key for r in found} for found in ordered.values()))
    counted = {
        name: [record for record in found if record.case_key in shared]
        for name, found in ordered.items()
    }
    values = {metric: _values(counted, metric) for metric in METRICS}
    some = next(iter(counted.values()))
    return Group(
        kind=kind,
        modality=modality,
        cases=len(shared),
        objects=sum(len(record.objects) for record in some),
        units=len({(record.dataset, record.group) for record in some}),
        left_out=len({record.case_key for record in own} - shared),
        scores={metric: _intervals(values[metric], metric, seed) for metric in METRICS},
        differences=[d for metric in TESTED for d in _differences(values[metric], metric)],
    )


def unit_means(records: Iterable[Record], metric: Metric) -> dict[Unit, float]:
    """Returns the score of each unit: the mean over its cases of the mean over their objects.

    Args:
        records: Of one column.
        metric: One of ``METRICS``; undefined values of objects do not count.
    """
    cases: dict[Unit, list[float]] = defaultdict(list)
    for record in records:
        found = [float(getattr(one, metric)) for one in record.objects]
        defined = [value for value in found if not math.isnan(value)]
        if defined:
            cases[record.dataset, record.group].append(float(np.mean(defined)))
    return {unit: float(np.mean(values)) for unit, values in sorted(cases.items())}


def _values(
    by_column: Mapping[str, Sequence[Record]], metric: Metric
) -> dict[str, dict[Unit, float]]:
    return {name: unit_means(records, metric) for name, records in by_column.items()}


def _intervals(
    values: Mapping[str, Mapping[Unit, float]], metric: Metric, seed: int
) -> dict[str, Interval]:
    return {
        name: bootstrap_interval(
            np.array(list(units.values()), np.float64),
            centre="median" if metric == "hd95" else "mean",
            seed=seed,
        )
        for name, units in values.items()
    }


def _differences(values: Mapping[str, Mapping[Unit, float]], metric: Metric) -> list[Difference]:
    pairs = list(itertools.combinations(values, 2))
    tests = []
    for first, second in pairs:
        units = sorted(values[first].keys() & values[second].keys())
        arrays = (np.array([values[name][u] for u in units]) for name in (first, second))
        tests.append(paired_test(*arrays))
    corrected = holm([test.p for test in tests])
    return [
        Difference(metric, first, second, test, p)
        for (first, second), test, p in zip(pairs, tests, corrected, strict=True)
    ]
