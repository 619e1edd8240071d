"""The command on real volumes: geometry by nibabel, labels by nibabel and slicerio."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import slicerio
from nifti_sets import read_manifest, read_splits

from medsam2_ft.errors import UserError
from medsam2_ft.io.npz import find_cases, read_case
from medsam2_ft.prepare import prepare
from medsam2_ft.types import Case, Modality


def only_case(out: Path) -> Case:
    (path,) = out.glob("*/*.npz")
    return read_case(path)


def check_against_nibabel(case: Case, image: Path, labels: Path) -> None:
    """Labels voxel by voxel, world positions of the corners, and the order of gray values."""
    source, truth = nib.load(image), nib.load(labels)
    np.testing.assert_array_equal(case.label_maps[0], np.asarray(truth.dataobj).T)
    last = np.array(source.shape) - 1
    corners = np.array([np.zeros(3), last, last * [1, 0, 0], last * [0, 1, 0]])
    axes = np.array(case.geometry.direction).reshape(3, 3)
    lps = (corners * case.geometry.spacing_mm[::-1]) @ axes.T + case.geometry.origin_mm
    ras = nib.affines.apply_affine(source.affine, corners)
    np.testing.assert_allclose(lps * [-1, -1, 1], ras, atol=1e-2)
    values = np.asarray(source.dataobj).T.ravel()[::97]
    gray = case.image.ravel()[::97].astype(int)
    order = np.argsort(values, kind="stable")
    inside = values[order] > 0  # the percentile rules keep zero at zero, below all others
    assert (np.diff(gray[order][inside]) >= 0).all()
    assert np.ptp(gray) > 200


@pytest.mark.parametrize(
    ("folder", "image", "labels", "modality", "count"),
    [
        (
            "CT/ivadomed_spleen",
            "sub-spleen2_ct.nii.gz",
            "sub-spleen2_ct_seg-manual.nii.gz",
            "CT",
            1,
        ),
        ("CT/totalsegmentator", "example_ct_sm.nii.gz", "example_seg.nii.gz", "CT", 41),
        ("MR/totalsegmentator", "example_mr_sm.nii.gz", "example_seg_mr.nii.gz", "MR", 23),
    ],
)
def test_one_folder_with_image_and_labels(
    test_data: Path,
    tmp_path: Path,
    folder: str,
    image: str,
    labels: str,
    modality: Modality,
    count: int,
) -> None:
    root = test_data / folder
    prepare(root, root, tmp_path / "out", modality=modality, workers=1)
    case = only_case(tmp_path / "out")
    check_against_nibabel(case, root / image, root / labels)
    (entry,) = read_manifest(tmp_path / "out")["written"]
    truth = np.asarray(nib.load(root / labels).dataobj).astype(int)
    ids, voxels = np.unique(truth[truth > 0], return_counts=True)
    assert len(entry["labels"]) == count
    assert {e["id"]: e["voxels"] for e in entry["labels"]} == dict(
        zip(ids.tolist(), voxels.tolist(), strict=True)
    )
    assert entry["spacing_mm"] == pytest.approx(nib.load(root / image).header.get_zooms()[::-1])


@pytest.mark.parametrize(("modality", "stem"), [("CT", "CT"), ("MR", "MR_T1"), ("PET", "PET")])
def test_a_folder_per_patient(
    test_data: Path, tmp_path: Path, modality: Modality, stem: str
) -> None:
    root = test_data / modality / "ibsi_sts_nifti"
    prepare(root, root, tmp_path, modality=modality, workers=1)
    splits = read_splits(tmp_path)
    assert {split: len(names) for split, names in splits.items()} == {
        "train": 1, "val": 1, "test": 0,
    }  # fmt: skip
    for path in tmp_path.glob("*/*.npz"):
        patient = path.stem[:7]
        folder = root / patient
        check_against_nibabel(
            read_case(path), folder / f"{stem}_image.nii.gz", folder / f"{stem}_mask.nii.gz"
        )
        assert find_cases(path.parent) == [path]


def test_three_modalities_of_the_same_patients_share_a_folder(
    test_data: Path, tmp_path: Path
) -> None:
    modalities: tuple[Modality, ...] = ("CT", "MR", "PET")
    for modality in modalities:
        root = test_data / modality / "ibsi_sts_nifti"
        prepare(root, root, tmp_path, modality=modality, group=r"STS_\d+", workers=1)
    splits = read_splits(tmp_path)
    assert [len(splits[s]) for s in ("train", "val")] == [3, 3]
    assert {n[:7] for n in splits["train"]}.isdisjoint(n[:7] for n in splits["val"])


def test_nrrd_pairs(test_data: Path, tmp_path: Path) -> None:
    root = test_data / "MR/pyradiomics"
    prepare(root, root, tmp_path, modality="MR", workers=1)
    assert {path.stem for path in tmp_path.glob("*/*.npz")} == {"brain1_image", "breast1_image"}


@pytest.mark.parametrize("name", ["Segmentation", "SegmentationOverlapping"])
def test_named_segments(test_data: Path, tmp_path: Path, name: str) -> None:
    root = test_data / "CT/slicerio_chest"
    labels = root / f"{name}.seg.nrrd"
    prepare(root / "CTChest4.nrrd", labels, tmp_path, modality="CT", window="lung", workers=1)
    case = only_case(tmp_path)
    truth = slicerio.read_segmentation(str(labels))
    voxels, layered = truth["voxels"], truth["voxels"].ndim == 4
    expected = {}
    for segment in truth["segments"]:
        layer = voxels[segment.get("layer", 0)] if layered else voxels
        expected[segment["name"]] = int((layer == segment["labelValue"]).sum())
    found = {
        case.label_names[entry["id"]]: entry["voxels"]
        for entry in read_manifest(tmp_path)["written"][0]["labels"]
    }
    assert found == {name: count for name, count in expected.items() if count}
    assert len(case.label_maps) == (2 if layered else 1)
    assert case.image.max() == 255
    assert case.image.min() == 0


def test_npz_cases_pass_through(test_data: Path, tmp_path: Path) -> None:
    root = test_data / "CT/medsam2_recist_npz"
    prepare(root, root, tmp_path, modality="CT", workers=1)
    for path in tmp_path.glob("*/*.npz"):
        source = np.load(root / path.name, allow_pickle=False)
        case = read_case(path)
        np.testing.assert_array_equal(case.image, source["imgs"])
        np.testing.assert_array_equal(case.label_maps[0], source["gts"])


def test_float_labels_and_specks(test_data: Path, tmp_path: Path) -> None:
    root = test_data / "MR/brats2015_deepmedic"
    prepare(
        root, root, tmp_path, modality="MR", workers=1, image_glob="**/Flair*",
        label_glob="**/OTMultiClass*", min_voxels_3d=1000, min_pixels_2d=100,
    )  # fmt: skip
    (entry,) = read_manifest(tmp_path)["written"]
    truth = np.asarray(nib.load(next(root.rglob("OTMultiClass*"))).dataobj)
    lost = sum(drop["voxels"] for drop in entry["dropped"])
    kept = sum(label["voxels"] for label in entry["labels"])
    assert lost > 0
    assert lost + kept == np.count_nonzero(truth)


def test_what_cannot_be_used_says_why(test_data: Path, tmp_path: Path) -> None:
    spine = test_data / "MR/sct_spinalcord"
    with pytest.raises(UserError, match=r"t2\.nii\.gz: 2 label files fit"):
        prepare(spine, spine, tmp_path / "o", modality="MR", workers=1)
