"""Pairs by patterns: what belongs together, what is refused, and the cases that come out."""

from pathlib import Path

import numpy as np
import pytest
from nifti_sets import box_labels, ct_like, read_manifest, snapshot, write_nifti
from PIL import Image

from medsam2_ft.errors import UserError
from medsam2_ft.io.npz import read_case
from medsam2_ft.prepare import NothingFoundError, prepare
from medsam2_ft.prepare.pairing import Sources, find_sources


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def find(root: Path, image_glob: str, label_glob: str) -> Sources:
    return find_sources(
        root, root, image_glob=image_glob, label_glob=label_glob, exclude=root / "out"
    )


def pairs(sources: Sources) -> dict[str, list[str]]:
    """Names of the label's files by case."""
    return {
        pair.name: [] if pair.label is None else [p.name for p in pair.label.source.all_files]
        for pair in sources.pairs
    }


def test_sequences_share_the_label_of_their_case(tmp_path: Path) -> None:
    root = touch(
        tmp_path, "a/a_t1.nii.gz", "a/a_t2.nii.gz", "a/a_seg.nii.gz", "b/b_t1.nii.gz",
        "c/c_seg.nii.gz", "d/x_t1.nii.gz",
    )  # fmt: skip
    found = find(root, "{case}/{case}_{sequence}.nii.gz", "{case}/{case}_seg.nii.gz")
    assert pairs(found) == {"a_t1": ["a_seg.nii.gz"], "a_t2": ["a_seg.nii.gz"], "b_t1": []}
    assert found.unused_labels == ("c/c_seg.nii.gz",)


def test_only_the_reading_that_has_a_label_counts(tmp_path: Path) -> None:
    root = touch(tmp_path, "sub_1_t2.nii", "sub_1_seg.nii", "sub_2_t2.nii", "sub_2_seg.nii")
    found = find(root, "{case}_{sequence}.nii", "{case}_seg.nii")
    assert pairs(found) == {"sub_1_t2": ["sub_1_seg.nii"], "sub_2_t2": ["sub_2_seg.nii"]}


def test_a_reading_that_fits_two_labels_is_refused(tmp_path: Path) -> None:
    root = touch(tmp_path, "a_b_t2.nii", "a_seg.nii", "a_b_seg.nii")
    with pytest.raises(UserError, match=r"a_b_t2\.nii: 2 segmentations fit"):
        find(root, "{case}_{sequence}.nii", "{case}_seg.nii")


def test_a_part_that_could_belong_to_two_cases_is_refused(tmp_path: Path) -> None:
    root = touch(tmp_path, "i/a.nii", "i/a_b.nii", "m/a_b_liver.nii")
    with pytest.raises(UserError, match=r"a_b_liver\.nii: could belong to 'a' and to 'a_b'"):
        find(root, "i/{case}.nii", "m/{case}_{label}.nii")


def test_patients_are_the_groups(tmp_path: Path) -> None:
    root = touch(tmp_path, "p1/x.nii", "p1/y.nii", "p1/x_m.nii", "p1/y_m.nii")
    found = find(root, "{patient}/{scan}.nii", "{patient}/{scan}_m.nii")
    assert [(pair.name, pair.patient) for pair in found.pairs] == [("p1_x", "p1"), ("p1_y", "p1")]


def test_wild_cards_keep_the_name_of_the_path(tmp_path: Path) -> None:
    root = touch(tmp_path, "setA/images/7.nii", "setB/images/8.nii", "setA/labels/7.nii")
    found = find(root, "**/images/{case}.nii", "**/labels/{case}.nii")
    assert pairs(found) == {"setA_7": ["7.nii"], "setB_8": []}


@pytest.mark.parametrize(
    ("image_glob", "label_glob", "message"),
    [
        ("{case}.nii", "{other}_m.nii", "share no placeholder"),
        ("*.nii", "{case}_m.nii", "has placeholders; use them in --image_glob"),
        ("{label}.nii", "{label}_m.nii", "belongs to --label_glob"),
        ("{case}.nii", "{case}_{label}_{object}.nii", "cannot be combined"),
        ("{case}.mha", "{case}_m.nii", "no image matches --image_glob"),
        ("{case}_{a,b}.nii", "{case}_m.nii", "alternatives"),
    ],
)
def test_patterns_that_cannot_be_used(
    tmp_path: Path, image_glob: str, label_glob: str, message: str
) -> None:
    root = touch(tmp_path, "a.nii", "a_m.nii", "b.nii")
    with pytest.raises(UserError, match=message):
        find(root, image_glob, label_glob)


def test_nothing_found_can_be_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NothingFoundError):
        find(touch(tmp_path, "a.nii"), "{case}.mha", "{case}_m.nii")


def write_clip(folder: Path, frames: list[int], *, masks: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in frames:
        array = np.full((20, 30, 3), 5 * number, np.uint8)
        array[:, :5] = 200
        array[0, 0] = (9, 8, number)
        Image.fromarray(array).save(folder / f"f{number}.png")
        if masks:
            mask = np.zeros((20, 30), np.uint8)
            mask[2 : 4 + number, 5:9] = 1
            Image.fromarray(mask).save(folder / f"f{number}_mask.png")


CLIPS = {"image_glob": "{case}/f{frame}.png", "label_glob": "{case}/f{frame}_mask.png"}


def test_frames_become_videos_in_natural_order(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_clip(root / "one", [1, 2, 10], masks=True)
    write_clip(root / "two", [1, 3], masks=True)
    prepare(root, root, tmp_path / "out", modality="endoscopy", workers=1, **CLIPS)
    (path,) = tmp_path.glob("out/*/one.npz")
    case = read_case(path)
    assert case.is_video
    assert case.image.shape == (3, 20, 30, 3)
    assert case.image[:, 0, 0, 2].tolist() == [1, 2, 10]
    areas = (case.label_maps[0] == 1).sum(axis=(1, 2)).tolist()
    assert areas == [4 * (2 + number) for number in (1, 2, 10)]
    entry = next(e for e in read_manifest(tmp_path / "out")["written"] if e["name"] == "one")
    assert list(entry["sources"]) == ["one/f{frame}.png", "labels:one/f{frame}_mask.png"]
    before = snapshot(tmp_path / "out")
    prepare(root, root, tmp_path / "out", modality="endoscopy", workers=1, **CLIPS)
    assert snapshot(tmp_path / "out") == before
    write_clip(root / "one", [2], masks=True)  # the same bytes
    write_clip(root / "two", [3, 4], masks=True)
    summary = prepare(root, root, tmp_path / "out", modality="endoscopy", workers=1, **CLIPS)
    assert (summary.built, summary.up_to_date) == (1, 1)


def test_frames_and_masks_must_be_complete(tmp_path: Path) -> None:
    write_clip(tmp_path / "one", [1, 2, 3], masks=True)
    (tmp_path / "one/f2_mask.png").unlink()
    write_clip(tmp_path / "two", [1, 3], masks=True)
    message = r"1 of 2 cases failed: .*one: 1 of 3 frames have no mask, such as f2\.png"
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, tmp_path, tmp_path / "out", modality="endoscopy", workers=1, **CLIPS)
    assert [path.name for path in tmp_path.glob("out/*/*.npz")] == ["two.npz"]
    (tmp_path / "one/f2.png").unlink()
    assert [pair.problem for pair in find(tmp_path, **CLIPS).pairs] == ["", ""]
    (tmp_path / "one/f1.png").unlink()
    problem, _ = (pair.problem for pair in find(tmp_path, **CLIPS).pairs)
    assert "1 of 2 masks belong to no frame, such as f1_mask.png" in problem
    write_clip(tmp_path / "one", [1], masks=True)
    summary = prepare(
        tmp_path, tmp_path, tmp_path / "out", modality="endoscopy", workers=1, **CLIPS
    )
    assert (summary.built, summary.up_to_date) == (1, 1)


def test_one_frame_twice_is_refused(tmp_path: Path) -> None:
    root = touch(tmp_path, "a/x1.png", "b/x1.png")
    assert len(find(root, "{case}/x{frame}.png", "{case}/m{frame}.png").pairs) == 2
    touch(tmp_path, "a/y1.png")
    with pytest.raises(UserError, match="same name"):
        find(root, "{case}/?{frame}.png", "{case}/m{frame}.png")


def test_parts_are_labels_with_the_same_id_in_every_case(tmp_path: Path) -> None:
    root = tmp_path / "in"
    boxes = box_labels()
    for case, organs in (("s1", {"liver": 1, "spleen": 2}), ("s2", {"spleen": 2})):
        write_nifti(root / case / "ct.nii.gz", ct_like(seed=len(organs)))
        for organ, label in organs.items():
            write_nifti(root / case / f"seg_{organ}.nii.gz", (boxes == label).astype(np.uint8))
    prepare(
        root, root, tmp_path / "out", modality="CT", workers=1,
        image_glob="{case}/ct.nii.gz", label_glob="{case}/seg_{label}.nii.gz",
    )  # fmt: skip
    found = {
        entry["name"]: {label["id"]: (label["name"], label["voxels"]) for label in entry["labels"]}
        for entry in read_manifest(tmp_path / "out")["written"]
    }
    ones, twos = int((boxes == 1).sum()), int((boxes == 2).sum())
    assert found == {"s1": {1: ("liver", ones), 2: ("spleen", twos)}, "s2": {2: ("spleen", twos)}}


def test_parts_are_objects(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_nifti(root / "a.nii.gz", ct_like())
    for number, label in ((2, 1), (10, 2)):
        write_nifti(root / f"a_o{number}.nii.gz", (box_labels() == label).astype(np.uint8))
    prepare(
        root, root, tmp_path / "out", modality="CT", workers=1,
        image_glob="{case}.nii.gz", label_glob="{case}_o{object}.nii.gz",
    )  # fmt: skip
    (path,) = tmp_path.glob("out/*/a.npz")
    np.testing.assert_array_equal(read_case(path).label_maps[0], box_labels())
