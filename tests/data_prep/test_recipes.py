"""Every recipe on a tiny release in its published layout: cases, labels, names, splits, skips."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import release_code
import release_pictures
import release_volumes
from release import Expected, Release

from data_prep.__main__ import main
from data_prep.catalogue import RECIPES
from medsam2_ft.io.npz import read_case
from medsam2_ft.types import Case

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


def writer_of(name: str) -> Callable[[Path], Release]:
    for module in (release_volumes, release_pictures, release_code):
        if hasattr(module, name):
            write: Callable[[Path], Release] = getattr(module, name)
            return write
    raise AssertionError(f"no release is generated for the recipe {name}")


def read_manifest(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return content


def times(out: Path) -> dict[str, int]:
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("name", NAMES)
def test_a_release_becomes_its_cases(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = writer_of(name)(tmp_path / "source")
    command = [name, str(tmp_path / "source"), str(tmp_path / "out"), "--workers", "1"]
    command += ["--val_share", "0.5", "--no_sheets"]
    assert main(command) == 0, capsys.readouterr().err
    manifest = read_manifest(tmp_path / "out")
    cases = [read_case(path) for path in (tmp_path / "out").glob("*/*.npz")]
    names = name_by_labels(cases, release) if release.hashed else {c.name: c.name for c in cases}
    assert sorted(names.values()) == sorted(release.cases)
    for case in cases:
        check_case(case, release.cases[names[case.name]])
    check_patients(manifest["written"], {n: release.cases[names[n]].patient for n in names})
    skipped = {entry["name"]: entry["reason"] for entry in manifest["skipped"]}
    assert len(skipped) == len(release.skipped)
    assert release.hashed or sorted(skipped) == sorted(release.skipped)
    for reason, expected in zip(skipped.values(), release.skipped.values(), strict=True):
        assert expected in reason
    assert manifest["failed"] == []
    before = times(tmp_path / "out")
    assert main(command) == 0
    assert times(tmp_path / "out") == before


def check_case(case: Case, expected: Expected) -> None:
    assert case.modality == expected.modality
    assert case.is_video == expected.video
    assert case.image.ndim == (4 if expected.colour else 3)
    masks = {
        int(label): label_map == label
        for label_map in case.label_maps
        for label in np.unique(label_map)
        if label
    }
    assert sorted(masks) == sorted(expected.labels)
    for label, mask in expected.labels.items():
        np.testing.assert_array_equal(masks[label], mask, err_msg=f"{case.name}: label {label}")
    assert dict(case.label_names) == dict(expected.names)
    assert {name: tuple(ids) for name, ids in case.regions.items()} == dict(expected.regions)
    if expected.image is not None:
        check_order(case, expected.image)


def check_order(case: Case, source: Any) -> None:
    """Brighter stays brighter, on the expected grid."""
    assert case.image.shape == source.shape
    values, grays = source.ravel(), case.image.ravel().astype(int)
    order = np.argsort(values, kind="stable")
    assert (np.diff(grays[order]) >= 0).all()
    assert np.ptp(grays) > 100


def name_by_labels(cases: Sequence[Case], release: Release) -> dict[str, str]:
    """Finds the case that was meant by its labels, where names are hashed."""
    by_masks = {
        tuple(mask.tobytes() for mask in expected.labels.values()): name
        for name, expected in release.cases.items()
    }
    return {
        case.name: by_masks[
            tuple((m == i).tobytes() for m in case.label_maps for i in np.unique(m) if i)
        ]
        for case in cases
    }


def check_patients(records: list[dict[str, Any]], patient_of: dict[str, str]) -> None:
    """Cases of a patient are one group, lie in one split, and no other patient is tied to them."""
    splits, groups = defaultdict(set), defaultdict(set)
    for record in records:
        patient = patient_of[record["name"]]
        splits[patient].add(record["split"])
        groups[patient].add(record["group"])
    assert all(len(held) == 1 for held in splits.values()), splits
    assert all(len(held) == 1 for held in groups.values()), groups
    assert len({min(held) for held in groups.values()}) == len(groups), groups


def test_recipes_are_short() -> None:
    for path in RECIPES.glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 25, path.name
        assert max(map(len, lines)) <= 120, path.name


def test_flare_is_split_as_in_the_paper(tmp_path: Path) -> None:
    release_volumes.flare22(tmp_path / "source")
    assert main(["flare22", str(tmp_path / "source"), str(tmp_path / "out"), "--workers", "1"]) == 0
    splits = json.loads((tmp_path / "out/splits.json").read_text())
    assert [len(splits[split]) for split in ("train", "val", "test")] == [4, 1, 0]
    entry = read_manifest(tmp_path / "out")["written"][0]
    assert entry["intensity"] == {"kind": "window", "lower": -160.0, "upper": 240.0}
    dropped = {(drop["rule"], drop["label"]): drop["voxels"] for drop in entry["dropped"]}
    assert dropped == {("drop_labels", 12): 12 * 8 * 28, ("min_voxels_3d", 9): 4 * 8 * 8}
