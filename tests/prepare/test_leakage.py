"""One patient, or one image, never lies in two splits."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nifti_sets import box_labels, ct_like, read_manifest, read_splits, write_nifti

from medsam2_ft.errors import UserError
from medsam2_ft.prepare import prepare
from medsam2_ft.prepare.leakage import check_no_leak, families, image_sha256, same_images
from medsam2_ft.prepare.manifest import Record

LINKS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


def record(name: str, group: str, image: str = "") -> Record:
    return Record(name, "written", "r", name, name, {}, {}, group, image_sha256=image)


@given(LINKS)
def test_families_are_connected_components(links: list[tuple[int, int]]) -> None:
    records = [record(f"c{n}", f"g{g}", f"i{i}") for n, (g, i) in enumerate(links)]
    family = families(records)
    # the plain way: spread the smallest number until nothing changes
    number = list(range(len(links)))
    for _ in links:
        for a, (group_a, image_a) in enumerate(links):
            for b, (group_b, image_b) in enumerate(links):
                if group_a == group_b or image_a == image_b:
                    number[a] = number[b] = min(number[a], number[b])
    for a in range(len(links)):
        for b in range(len(links)):
            assert (family[f"c{a}"] == family[f"c{b}"]) == (number[a] == number[b])
        assert family[f"c{a}"] in {f"g{g}" for g, _ in links}


def test_a_single_patient_keeps_its_name() -> None:
    assert families([record("a", "p1"), record("b", "p2")]) == {"a": "p1", "b": "p2"}


def test_unknown_images_are_not_equal() -> None:
    records = [record("a", "p1"), record("b", "p2")]
    assert same_images(records) == []
    assert check_no_leak({"a": "train", "b": "val"}, {r.name: r for r in records}, "s", "x") == {
        "p1": "train",
        "p2": "val",
    }


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([record("a", "p"), record("b", "p")], r"same group \(p\)"),
        ([record("a", "p", "i"), record("b", "q", "i")], "their images are identical"),
        ([record("a", "p"), record("b", "q", "i"), record("x", "p", "i")], "link them"),
    ],
)
def test_both_cases_are_named(records: list[Record], reason: str) -> None:
    with pytest.raises(UserError, match=rf"s\.csv: a is in train and b in val, but .*{reason}"):
        check_no_leak({"a": "train", "b": "val"}, {r.name: r for r in records}, "s.csv", "x")


def test_the_checksum_is_of_values_and_shape() -> None:
    array = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    assert image_sha256(array) == image_sha256(np.asfortranarray(array))
    assert image_sha256(array) != image_sha256(array.reshape(1, 4, 3))
    assert image_sha256(array) != image_sha256(array[:, ::-1])


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, int], None]:
    """``write(name, seed)``: an image with a label; equal seeds give equal images."""

    def write_pair(name: str, seed: int) -> None:
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", ct_like(seed=seed))
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", box_labels())

    return write_pair


def run(root: Path, **options: object) -> None:
    options = {"modality": "CT", "workers": 1, "val_share": 0.3, **options}
    prepare(root / "images", root / "labels", root / "out", **options)  # type: ignore[arg-type]


def test_equal_images_stay_together(
    tmp_path: Path, write: Callable[[str, int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(10):
        write(f"a{number}", number)
        write(f"b{number}", number)
    run(tmp_path)
    splits = read_splits(tmp_path / "out")
    assert len(splits["val"]) == 6
    assert {name[1:] for name in splits["val"]}.isdisjoint(name[1:] for name in splits["train"])
    assert read_manifest(tmp_path / "out")["same_images"][0] == ["a0", "b0"]
    assert "cases with the same image, kept in one split (10): a0 = b0" in capsys.readouterr().out


def test_a_split_file_that_parts_equal_images_is_refused(
    tmp_path: Path, write: Callable[[str, int], None]
) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        write(name, seed)
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"train": ["a", "b"], "val": ["c"]}))
    with pytest.raises(UserError, match=r"s\.json: a is in train and c in val, .*identical"):
        run(tmp_path, split_file=path)
    assert not list((tmp_path / "out").glob("train/*"))
    path.write_text(json.dumps({"train": ["b"], "val": ["a", "c"]}))
    run(tmp_path, split_file=path)
    assert read_splits(tmp_path / "out") == {"train": ["b"], "val": ["a", "c"], "test": []}


def test_a_split_file_that_parts_a_patient_is_refused_at_once(
    tmp_path: Path, write: Callable[[str, int], None]
) -> None:
    for name, seed in (("p1_x", 1), ("p1_y", 2), ("p2_x", 3)):
        write(name, seed)
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"train": ["p1_x", "p2_x"], "val": ["p1_y"]}))
    with pytest.raises(UserError, match=r"p1_x is in train and p1_y in val, .*same group \(p1\)"):
        run(tmp_path, split_file=path, group=r"p\d")
    assert not (tmp_path / "out").exists()


def test_a_new_copy_joins_its_original(tmp_path: Path, write: Callable[[str, int], None]) -> None:
    for number in range(6):
        write(f"a{number}", number)
    run(tmp_path)
    before = read_splits(tmp_path / "out")
    copied = before["val"][0]
    write("copy", int(copied[1:]))
    run(tmp_path)
    after = read_splits(tmp_path / "out")
    assert after["val"] == sorted([*before["val"], "copy"])
    assert after["train"] == before["train"]


def test_a_case_that_ties_two_splits_is_refused(
    tmp_path: Path, write: Callable[[str, int], None]
) -> None:
    for number in range(4):
        write(f"a{number}", number)
    run(tmp_path)
    splits = read_splits(tmp_path / "out")
    val, train = splits["val"][0], splits["train"][0]
    write(train, int(val[1:]))  # now the same image as one of validation
    with pytest.raises(UserError, match=r"the splits of an earlier run: .*another --seed"):
        run(tmp_path)
    run(tmp_path, seed=1)
    splits = read_splits(tmp_path / "out")
    assert any({val, train} <= set(names) for names in splits.values())
