import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.splits import SplitRule, read_split_file, split_groups

NAMES = st.lists(st.text("abc01", min_size=1, max_size=6), min_size=1, max_size=40, unique=True)
SHARES = st.tuples(st.floats(0, 0.6), st.floats(0, 0.39))


@given(NAMES, SHARES, st.integers(0, 9), st.randoms())
def test_split_covers_all_in_any_order(
    names: list[str], shares: tuple[float, float], seed: int, random: Random
) -> None:
    val, test = shares
    split = split_groups(names, val_share=val, test_share=test, seed=seed)
    assert set(split) == set(names)
    assert set(split.values()) <= {"train", "val", "test"}
    counts = {key: list(split.values()).count(key) for key in ("train", "val", "test")}
    assert counts["train"] >= 1
    room = len(names) - 1
    wanted_val = min(max(round(val * len(names)), int(val > 0 and len(names) >= 2)), room)
    assert counts["val"] == wanted_val
    wanted_test = max(round(test * len(names)), int(test > 0 and len(names) >= 3))
    assert counts["test"] == min(wanted_test, room - wanted_val)
    shuffled = random.sample(names, len(names))
    assert split_groups(shuffled, val_share=val, test_share=test, seed=seed) == split


@given(NAMES, NAMES, SHARES)
def test_added_groups_do_not_move_old_ones(
    old: list[str], new: list[str], shares: tuple[float, float]
) -> None:
    val, test = shares
    before = split_groups(old, val_share=val, test_share=test, seed=3)
    after = split_groups([*old, *new], val_share=val, test_share=test, seed=3, fixed=before)
    assert {name: after[name] for name in old} == before
    # new groups fill validation up to its share of the whole
    total, held = len(after), list(before.values()).count("val")
    target = min(max(round(val * total), int(val > 0 and total >= 2)), total - 1)
    added = min(max(0, target - held), total - len(before))
    assert list(after.values()).count("val") == held + added


def test_seeds_differ() -> None:
    names = [f"case{i}" for i in range(30)]
    splits = [split_groups(names, val_share=0.3, test_share=0.2, seed=s) for s in (0, 1)]
    assert splits[0] != splits[1]


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (-0.1, 0.0, "val_share"),
        (0.0, 1.0, "test_share"),
        (0.6, 0.4, "nothing to train"),
        (float("nan"), 0.0, "val_share"),
    ],
)
def test_bad_shares(val: float, test: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_groups(["a"], val_share=val, test_share=test, seed=0)


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_split_files(tmp_path: Path) -> None:
    wanted = {"S1_ct": "train", "b": "val", "c": "test"}
    by_json = write(tmp_path / "s.json", {"train": ["S1/ct.nii.gz"], "val": ["b"], "test": ["c"]})
    assert read_split_file(by_json, wanted) == wanted
    by_csv = write(tmp_path / "s.csv", "name,split\nS1_ct,train\n\nb.npz,val\n c , test\n")
    assert read_split_file(by_csv, wanted) == wanted
    bare = write(tmp_path / "t.csv", "\ufeffb,val\n")
    assert read_split_file(bare, ["b"]) == {"b": "val"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.json", {"train": ["a"]}, "has no split for: b"),
        ("s.json", {"train": ["a", "b", "x"]}, "names no case of the input: x"),
        ("s.json", {"train": ["a", "b"], "val": ["a"]}, "a is in both train and val"),
        ("s.json", {"training": ["a", "b"]}, "unknown split 'training'"),
        ("s.json", [{"train": ["a"]}], "must hold lists"),
        ("s.json", {"train": [1]}, "must hold lists"),
        ("s.json", "{", "not valid JSON"),
        ("s.csv", "a,train\nb\n", "row 2"),
        ("s.csv", "a,train\nb,fold0\n", "unknown split 'fold0'"),
    ],
)
def test_bad_split_files(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as caught:
        read_split_file(path, ["a", "b"])
    assert str(path) in str(caught.value)


def test_missing_split_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_split_file(tmp_path / "none.csv", ["a"])


def test_a_rule_reads_its_file_with_other_names_of_the_cases(tmp_path: Path) -> None:
    path = write(tmp_path / "s.json", {"train": ["a"], "val": ["clear"], "test": []})
    rule = SplitRule(0.1, 0.0, 0, path, None)
    assert rule.check(["a", "b"], {"clear": "b"}) == {"a": "train", "b": "val"}
