import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_comparison import record

from medsam2_ft.benchmarking.cases import CaseSource, Shard, find_sources, parse_shard
from medsam2_ft.benchmarking.peeks import pack_mask, unpack_mask
from medsam2_ft.benchmarking.records import Journal, newest, record_from_json
from medsam2_ft.benchmarking.settings import Settings, check_settings, parse_tolerances
from medsam2_ft.errors import UserError


def test_a_torn_line_costs_one_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.read() == []
    first, second = record("a", "m", [0.0, 0.25]), record("b", "m", [1 / 3])
    first = dataclasses.replace(first, peak_cuda_mb=math.inf)
    journal.append(first)
    with journal.path.open("a") as stream:
        stream.write('{"dataset": "set", "case": "c", "obj')
    journal.append(second)
    found = journal.read()
    assert [r.case for r in found] == ["a", "b"]
    assert [one.dsc for one in found[0].objects] == [0.0, 0.25]
    assert found[0].objects[0].hd95 == math.inf
    assert found[1].objects[0].dsc == 1 / 3  # to the last bit
    assert math.isnan(found[1].peak_cuda_mb)


def test_the_last_record_of_a_case_counts() -> None:
    old, new = record("a", "m", [0.1]), record("a", "m", [0.2])
    other = record("0", "m", [0.3])
    assert newest([old, other, new]) == [other, new]


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises((KeyError, TypeError)):
        record_from_json({"case": "a"})


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_packed_masks_come_back(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) > 0.5
    text = pack_mask(mask)
    assert np.array_equal(unpack_mask(text, (height, width)), mask)
    with pytest.raises(ValueError, match="bytes"):
        unpack_mask(text, (height + 8, width))
    with pytest.raises(ValueError, match=r"."):
        unpack_mask(text[: len(text) // 2], (height, width))


def test_shards_part_the_cases() -> None:
    cases = [CaseSource("set", f"case{i}", Path("x"), "") for i in range(200)]
    parts = [[c.name for c in cases if Shard(n, 3).holds(c)] for n in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(c.name for c in cases)
    assert min(map(len, parts)) > 40
    assert parse_shard("2/3") == Shard(2, 3)
    for text in ("0/3", "4/3", "2", "a/3", "2/3/4", "-1/3"):
        with pytest.raises(UserError, match="--shard"):
            parse_shard(text)


def test_settings() -> None:
    assert parse_tolerances("ct=1.5, endoscopy=3") == {"CT": 1.5, "endoscopy": 3.0}
    assert parse_tolerances("") == {}
    settings = Settings(tolerances={"CT": 1.0}, tolerance_px=3.0)
    assert settings.tolerance("3D", "CT") == 1.0
    assert settings.tolerance("3D", "MR") == 2.0
    assert settings.tolerance("video", "endoscopy") == 3.0
    assert settings.fingerprint() != Settings().fingerprint()
    for text in ("CT", "CT=x", "CT=-1", "CT=1,CT=2", "heart=2", "CT=inf"):
        with pytest.raises(UserError, match="--tolerances"):
            parse_tolerances(text)
    for bad in ({"tolerance_mm": 0.0}, {"margin_px": -1.0}, {"box_noise_px": -1}, {"seed": -1}):
        with pytest.raises(UserError, match=next(iter(bad))):
            check_settings(Settings(**bad))


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_the_test_split_counts_where_there_are_splits(tmp_path: Path) -> None:
    root = tmp_path / "set"
    touch(root / "train/a.npz", root / "test/b.npz", root / "test/c.npz", tmp_path / "flat/d.npz")
    (root / "manifest.json").write_text('{"written": [{"name": "b", "group": "p7"}]}')
    found = find_sources([root, tmp_path / "flat"], None, None)
    assert [(c.dataset, c.name, c.group) for c in found] == [
        ("flat", "d", "d"),
        ("set", "b", "p7"),
        ("set", "c", "c"),
    ]
    assert [c.name for c in find_sources([root], ["train", "test"], 2)] == ["a", "b"]
    with pytest.raises(UserError, match=r"no case in the split val \(train: 1, test: 2\)"):
        find_sources([root], ["val"], None)
    with pytest.raises(UserError, match="two data folders are called set"):
        find_sources([root, tmp_path / "other" / "set"], None, None)
    (root / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match="manifest"):
        find_sources([root], None, None)
