import math
from collections.abc import Sequence

import pytest
import scipy.stats

from medsam2_ft.benchmarking.comparison import columns, compare
from medsam2_ft.benchmarking.figures import distance_curve
from medsam2_ft.benchmarking.records import ObjectRecord, Record
from medsam2_ft.benchmarking.settings import Kind, Settings
from medsam2_ft.benchmarking.statistics import holm
from medsam2_ft.benchmarking.summary import Benchmark, markdown_table, to_json, to_markdown


def scored(dsc: float, label: int = 1, slices: Sequence[float] = (1.0,)) -> ObjectRecord:
    hd95 = math.inf if dsc == 0 else 10 * (1 - dsc)
    return ObjectRecord(
        label, f"organ {label}", 1, (1.0, 2.0, 3.0, 4.0), 0, len(slices) - 1, 9, 9, dsc, dsc, hd95,
        2.0, slices,
    )  # fmt: skip


def record(
    case: str,
    model: str,
    dsc: Sequence[float],
    *,
    group: str = "",
    modality: str = "CT",
    kind: Kind = "3D",
    strategy: str = "box",
) -> Record:
    objects = [scored(value, label) for label, value in enumerate(dsc, start=1)]
    return Record(
        "set", case, "0", group or case, "", model, "key", strategy, "fp", "scored", "", modality,
        kind, 3, 3, 1.5, 500.0, device="cpu", objects=objects,
    )  # fmt: skip


def test_a_patient_counts_once_and_so_does_a_case() -> None:
    records = [
        record("a1", "m", [0.2, 0.4, 0.6], group="a"),  # 0.4
        record("a2", "m", [0.8], group="a"),  # patient a: 0.6
        record("b1", "m", [1.0], group="b"),
    ]
    (group,) = compare(records)
    assert (group.units, group.cases, group.objects) == (2, 3, 5)
    interval = group.scores["dsc"]["m"]
    assert (interval.centre, interval.n) == (pytest.approx(0.8), 2)
    assert (interval.low, interval.high) == pytest.approx((0.6, 1.0))


def test_modalities_and_kinds_are_apart_and_together() -> None:
    records = [
        record("a", "m", [0.5]),
        record("b", "m", [0.7], modality="MR"),
        record("c", "m", [0.9], modality="MR", kind="2D"),
    ]
    found = {(g.kind, g.modality): g.scores["dsc"]["m"].centre for g in compare(records)}
    assert found == {
        ("2D", "MR"): 0.9,
        ("3D", "CT"): 0.5,
        ("3D", "MR"): 0.7,
        ("3D", "all"): pytest.approx(0.6),
    }


def test_models_are_compared_on_the_cases_of_all() -> None:
    records = [record(case, "m", [dsc]) for case, dsc in (("a", 0.5), ("b", 0.1), ("c", 0.7))]
    records += [record(case, "n", [0.9]) for case in "ac"]
    (group,) = compare(records)
    assert (group.cases, group.left_out) == (2, 1)
    assert group.scores["dsc"]["m"].centre == pytest.approx(0.6)
    text = to_markdown(Benchmark(Settings(), records, [group]))
    assert "1 cases count for no model" in text


def test_a_missed_object_ranks_last_in_hd95() -> None:
    records = [record(str(i), "m", [dsc]) for i, dsc in enumerate((0.0, 0.5, 0.8))]
    (group,) = compare(records)
    interval = group.scores["hd95"]["m"]
    assert interval.centre == pytest.approx(5.0)
    assert interval.high == math.inf
    assert "**5.0** [2.0, ∞]" in to_markdown(Benchmark(Settings(), records, [group]))


def test_pairs_are_tested_and_corrected_as_one_family() -> None:
    values = {
        "a": [0.9, 0.8, 0.7, 0.95, 0.85, 0.75, 0.65],
        "b": [0.8, 0.75, 0.72, 0.8, 0.8, 0.7, 0.6],
        "c": [0.3, 0.2, 0.3, 0.1, 0.2, 0.35, 0.12],
    }
    records = [record(str(i), m, [v]) for m, row in values.items() for i, v in enumerate(row)]
    (group,) = compare(records)
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    expected = [scipy.stats.wilcoxon(values[x], values[y]).pvalue for x, y in pairs]
    found = [d for d in group.differences if d.metric == "dsc"]
    assert [(d.first, d.second) for d in found] == pairs
    assert [d.test.p for d in found] == pytest.approx(expected)
    assert [d.p_holm for d in found] == pytest.approx(holm(expected))
    text = to_markdown(Benchmark(Settings(), records, [group]))
    row = next(line for line in text.splitlines() if line.startswith("| CT |"))
    assert row.count("**") == 2
    assert f"p={found[1].p_holm:.3f}*" in row  # c against the best one, a
    assert f"p={found[0].p_holm:.3f}" in row


def test_few_units_are_not_tested_and_it_is_said() -> None:
    records = [record(str(i), m, [0.1 * i]) for m in "ab" for i in range(5)]
    (group,) = compare(records)
    assert all(math.isnan(d.p_holm) for d in group.differences)
    text = to_markdown(Benchmark(Settings(), records, [group]))
    assert "not tested | n = 5: fewer than 6 pairs" in text
    assert "p=" not in text


def test_columns_name_the_strategy_where_it_differs() -> None:
    records = [record("a", "m", [0.5]), record("a", "n", [0.5])]
    assert list(columns(records).values()) == ["m", "n"]
    records.append(record("a", "n", [0.5], strategy="memory"))
    assert list(columns(records).values()) == ["m (box)", "n (box)", "n (memory)"]


def test_the_summary_lists_what_is_missing() -> None:
    failed = Record("set", "bad", "", "bad", "", "m", "key", "box", "fp", "failed", "a | b\nc")
    empty = Record("set", "void", "", "void", "", "m", "key", "box", "fp", "empty", "no object")
    benchmark = Benchmark(Settings(), [failed, empty], compare([failed, empty]), {"x": "no file"})
    text = to_markdown(benchmark)
    assert "| set | bad | m | box | a \\| b c |" in text
    assert "- set: void" in text
    assert "- x: no file" in text
    content = to_json(benchmark)
    assert (content["groups"], len(content["failures"])) == ([], 1)
    assert content["skipped_models"] == {"x": "no file"}


def test_markdown_table() -> None:
    assert markdown_table([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_curve_over_the_distance() -> None:
    rows = [
        [0.4, 1.0, 0.8, 0.6],  # prompted slice 1: distances 1 0 1 2
        [0.2, 0.8, math.nan, 0.4],
        [0.6, 0.9, 0.7],
    ]
    records = [
        Record("s", str(i), "", "", "", "m", "", "box", "", "scored", objects=[scored(1.0, 1, row)])
        for i, row in enumerate(rows)
    ]
    curve = distance_curve(records, 1)
    assert curve == {0.0: pytest.approx(0.9), 1.0: pytest.approx((0.6 + 0.2 + 0.65) / 3)}
    assert distance_curve(records[:1], 2) == {
        0.5: pytest.approx((0.4 + 1.0 + 0.8) / 3),
        2.5: pytest.approx(0.6),
    }
