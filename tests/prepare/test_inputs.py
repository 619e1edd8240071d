"""Several inputs in one run: one split, one manifest, names that must not collide."""

import os
from pathlib import Path

import numpy as np
import pytest
from nifti_sets import box_labels, ct_like, read_manifest, read_splits, snapshot, write_nifti

from medsam2_ft.errors import UserError
from medsam2_ft.prepare import Input, NothingFoundError, prepare_inputs


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a_ct", "b_ct", "c_mr", "d_mr", "e_mr")):
        write_nifti(tmp_path / "source" / f"{name}.nii.gz", ct_like(seed=seed))
        write_nifti(tmp_path / "source" / f"{name}_seg.nii.gz", box_labels())
    write_nifti(tmp_path / "source/f_mr.nii.gz", ct_like(seed=9))  # without labels
    write_nifti(tmp_path / "source/z_ct_seg.nii.gz", box_labels())  # without an image
    return tmp_path / "source"


def inputs(source: Path) -> list[Input]:
    return [
        Input(
            source,
            source,
            modality=modality,
            image_glob=f"{{case}}_{modality.lower()}.nii.gz",
            label_glob=f"{{case}}_{modality.lower()}_seg.nii.gz",
        )
        for modality in ("CT", "MR")
    ]


def test_one_split_and_one_manifest(source: Path, tmp_path: Path) -> None:
    summary = prepare_inputs(inputs(source), tmp_path / "out", val_share=0.4, workers=1)
    assert (summary.built, dict(summary.splits)) == (5, {"train": 3, "val": 2, "test": 0})
    manifest = read_manifest(tmp_path / "out")
    kinds = {entry["name"]: entry["settings"]["modality"] for entry in manifest["written"]}
    assert kinds == {"a": "CT", "b": "CT", "c": "MR", "d": "MR", "e": "MR"}
    assert [entry["name"] for entry in manifest["skipped"]] == ["f"]
    assert manifest["unused_labels"] == ["z_ct_seg.nii.gz"]
    before = snapshot(tmp_path / "out")
    again = prepare_inputs(inputs(source), tmp_path / "out", val_share=0.4, workers=1)
    assert (again.built, again.up_to_date) == (0, 5)
    assert snapshot(tmp_path / "out") == before


def test_an_input_without_images(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pet = Input(source, source, modality="PET", image_glob="{case}_pet.nii.gz")
    summary = prepare_inputs([pet, inputs(source)[0]], tmp_path / "out", workers=1)
    assert summary.built == 2
    assert "no image matches (1): {case}_pet.nii.gz" in capsys.readouterr().out
    with pytest.raises(NothingFoundError, match="_pet"):
        prepare_inputs([pet], tmp_path / "out", workers=1)


def test_the_same_name_twice(source: Path, tmp_path: Path) -> None:
    write_nifti(source / "a_mr.nii.gz", ct_like(seed=7))
    with pytest.raises(UserError, match="same name"):
        prepare_inputs(inputs(source), tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_options_are_checked_before_anything_is_searched(source: Path, tmp_path: Path) -> None:
    wrong = Input(source / "nowhere", source, modality="CT", window="liver")
    with pytest.raises(UserError, match="window 'liver'"):
        prepare_inputs([inputs(source)[0], wrong], tmp_path / "out", workers=1)


def test_a_patient_of_two_dicom_inputs_has_one_hash(test_data: Path, tmp_path: Path) -> None:
    both = [
        Input(
            test_data / modality / "ibsi_sts_dicom",
            test_data / modality / "ibsi_sts_dicom",
        )
        for modality in ("PET", "MR")
    ]
    prepare_inputs(both, tmp_path / "out", workers=1)
    groups = {entry["group"] for entry in read_manifest(tmp_path / "out")["written"]}
    assert len(groups) == 1
    assert (tmp_path / "out/.patient_salt").stat().st_mode & 0o777 == 0o600
    for path in (tmp_path / "out").rglob("*"):
        assert "008" not in path.name
        assert not path.is_file() or b"STS_008" not in path.read_bytes()


def test_a_group_of_one_input_reaches_over_all(source: Path, tmp_path: Path) -> None:
    ct, mr = (
        Input(
            entry.images,
            entry.labels,
            modality=entry.modality,
            image_glob=entry.image_glob,
            label_glob=entry.label_glob,
            name_prefix=f"{entry.modality}_",
            group=r"_(.)",
        )
        for entry in inputs(source)
    )
    for name in ("a", "b"):
        write_nifti(source / f"{name}_mr.nii.gz", np.flip(ct_like(seed=5), 2))
        os.link(source / f"{name}_ct_seg.nii.gz", source / f"{name}_mr_seg.nii.gz")
    prepare_inputs([ct, mr], tmp_path / "out", val_share=0.5, workers=1)
    splits = read_splits(tmp_path / "out")
    for name in ("a", "b"):
        held = {s for s, names in splits.items() for n in names if n.endswith(f"_{name}")}
        assert len(held) == 1
