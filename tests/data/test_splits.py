import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import synthetic

from medsam2_ft.data.splits import find_splits
from medsam2_ft.errors import UserError
from medsam2_ft.prepare import prepare

MakeCase = Callable[..., Path]


def names(folder: Path, **changes: Any) -> dict[str, list[str]]:
    options: dict[str, Any] = {"val_share": 0.2, "test_share": 0.0, "seed": 0}
    return {
        split: [path.stem for path in paths]
        for split, paths in find_splits(folder, **(options | changes)).items()
    }


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for k in range(10):
        (tmp_path / f"case{k}.npz").touch()
    return tmp_path


def test_folders_decide(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
        for k in range(2):
            (tmp_path / split / f"{split}{k}.npz").touch()
    assert names(tmp_path) == {s: [f"{s}0", f"{s}1"] for s in ("train", "val", "test")}


def test_validation_is_drawn_from_train_where_it_has_no_folder(tmp_path: Path) -> None:
    for split, count in (("train", 10), ("test", 1)):
        (tmp_path / split).mkdir()
        for k in range(count):
            (tmp_path / split / f"{split}{k}.npz").touch()
    found = names(tmp_path, test_share=0.5)
    assert found["test"] == ["test0"]
    assert [len(found["train"]), len(found["val"])] == [8, 2]
    assert not set(found["train"]) & set(found["val"])


def test_one_folder_is_split_by_case(flat: Path) -> None:
    found = names(flat, test_share=0.3)
    assert [len(found[s]) for s in ("train", "val", "test")] == [5, 2, 3]
    assert sorted(name for split in found.values() for name in split) == [
        f"case{k}" for k in range(10)
    ]
    assert names(flat, test_share=0.3) == found
    assert names(flat, test_share=0.3, seed=1) != found


def test_a_test_folder_alone_is_enough_to_test(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.npz").touch()
    assert names(tmp_path) == {"train": [], "val": [], "test": ["a"]}


def test_splits_file_decides(flat: Path) -> None:
    listed = {"train": ["case3", "case1.npz"], "val": ["case0"]}
    (flat / "splits.json").write_text(json.dumps(listed))
    assert names(flat) == {"train": ["case1", "case3"], "val": ["case0"], "test": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not of the form"),
        ("[1]", "is not of the form"),
        ('{"train": ["case0"], "dev": []}', "unknown split 'dev'"),
        ('{"train": "case0"}', "must be a list of case names"),
        ('{"train": [3]}', "must be a list of case names"),
        ('{"train": ["case77"]}', "holds no case77.npz"),
        ('{"train": ["case0"], "val": ["case0"]}', "is in train and in val"),
    ],
)
def test_unusable_splits_file_is_named(flat: Path, content: str, message: str) -> None:
    (flat / "splits.json").write_text(content)
    with pytest.raises(UserError, match=rf"splits\.json: .*{message}"):
        names(flat)


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        names(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no \.npz"):
        names(tmp_path)


def test_cases_with_the_same_image_are_drawn_together(tmp_path: Path) -> None:
    """A prepared folder without val: its manifest says which cases belong together."""
    images, labels, out = tmp_path / "images", tmp_path / "labels", tmp_path / "out"
    for name, seed in (("a", 1), ("b", 2), ("c", 3), ("copy_of_a", 1)):
        imgs, gts = synthetic.make_volume((3, 24, 24), labels=(1,), seed=seed)
        for folder, array in ((images, imgs), (labels, gts)):
            folder.mkdir(exist_ok=True)
            image = nibabel.Nifti1Image(array.T.astype(np.int16), np.eye(4))
            image.to_filename(folder / f"{name}.nii")
    prepare(images, labels, out, modality="MR", val_share=0.0, workers=1)
    for seed in range(8):
        found = find_splits(out, val_share=0.5, test_share=0.0, seed=seed)
        held = {path.stem for path in found["val"]}
        assert 1 <= len(held) < 4
        assert ("a" in held) == ("copy_of_a" in held)
