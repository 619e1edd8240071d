"""The sample of all modalities: every pair is prepared by the committed collection, rightly."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from sample_truth import Volumes, truth, tumour_masks

from data_prep.__main__ import main
from data_prep.catalogue import load_recipe
from medsam2_ft.types import MODALITIES

NOT_USED = (
    "MR/brats2015_deepmedic/brats_2013_pat0006_1/License_CC_BY_NC_SA_3.0.txt",
    "MR/brats2015_deepmedic/brats_2013_pat0006_1/brainmask.nii.gz",
    "endoscopy/cholecseg8k_clip/dev/frame_561_endo_color_mask.png",  # as the watershed mask
    "fundus/drive/mask/21_training_mask.gif",  # field of view
)


@pytest.fixture(scope="module")
def sample(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample")
    assert main(["sample", str(test_data), str(out), "--workers", "2"]) == 0
    return out


def npz_volumes(path: Path) -> Volumes:
    """mm3 (or pixels) by label, of all maps."""
    found: dict[int, float] = {}
    with np.load(path, allow_pickle=False) as case:
        unit = float(np.prod(case["spacing"])) if "spacing" in case else 1.0
        for key in case:
            if key == "gts" or key.startswith("gts_"):
                ids, counts = np.unique(case[key], return_counts=True)
                found |= {int(i): float(n * unit) for i, n in zip(ids, counts, strict=True) if i}
    return found


def by_size(volumes: Volumes) -> Volumes:
    return dict(enumerate(sorted(volumes.values()), start=1))


def cases_of(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in folder.glob("*/*.npz")}


def records(sample: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(sample.glob("*/manifest.json")):
        for entry in json.loads(path.read_text())["written"]:
            yield path.parent.name, entry


def test_label_volumes(sample: Path, test_data: Path) -> None:
    expected = truth(test_data)
    names = {member.recipe.name for member in load_recipe("sample").members}
    assert set(expected) == names
    for data_set, cases in expected.items():
        written = {n: p for n, p in cases_of(sample / data_set).items() if "_dicom_" not in n}
        assert set(written) == set(cases), data_set
        for name, volumes in cases.items():
            found = npz_volumes(written[name])
            if data_set == "dsb2018":  # nuclei, whose order is that of their files' names
                found, volumes = by_size(found), by_size(volumes)
            assert set(found) == set(volumes), (data_set, name)
            for label, volume in volumes.items():
                assert found[label] == pytest.approx(volume, rel=0.005), (data_set, name, label)


def test_contours_equal_the_nifti_masks(sample: Path, test_data: Path) -> None:
    cases = cases_of(sample / "sarcoma")
    dicom = {name.split("_")[0]: path for name, path in cases.items() if "_dicom_" in name}
    assert set(dicom) == {"CT", "PET", "MR"}
    masks = tumour_masks(test_data)
    for modality, path in dicom.items():
        mask = np.asarray(nib.load(masks[f"{modality}_STS_008"]).dataobj).T
        with np.load(path) as case, np.load(cases[f"{modality}_STS_008"]) as twin:
            np.testing.assert_array_equal(case["gts"], mask)
            np.testing.assert_array_equal(case["imgs"], twin["imgs"])


def test_one_patient_is_in_one_split(sample: Path) -> None:
    splits = json.loads((sample / "sarcoma/splits.json").read_text())
    of_first = [s for s, held in splits.items() for n in held if "_019" not in n]
    assert len(of_first) == 6
    assert len(set(of_first)) == 1


def test_every_file_is_used(sample: Path, test_data: Path) -> None:
    folders = {member.recipe.name: member.folder for member in load_recipe("sample").members}
    listed = {entry["file"] for entry in json.loads((test_data / "MANIFEST.json").read_text())}
    used = set()
    for data_set, entry in records(sample):
        for source in entry["sources"]:
            path = str(PurePosixPath(folders[data_set]) / source.removeprefix("labels:"))
            # frames and parts have one entry together, such as frame_{frame}.png
            pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))
            used |= {file for file in listed if re.fullmatch(pattern, file)}
    left = {file for file in listed - used if "_dicom/" not in file}
    assert left == set(NOT_USED)


def test_every_dicom_file_is_used(sample: Path, test_data: Path) -> None:
    """Names of DICOM files are not in the manifest; the checksums of their bytes are."""
    found = {v for _, entry in records(sample) for v in entry["sources"].values()}
    for series in test_data.glob("*/ibsi_sts_dicom/STS_008/*"):
        digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in series.glob("image/*")]
        assert hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest() in found
        contours = (series / "mask/RS.dcm").read_bytes()
        assert hashlib.sha256(contours).hexdigest() in found


def test_nothing_failed_or_was_skipped(sample: Path) -> None:
    for path in sample.glob("*/manifest.json"):
        content = json.loads(path.read_text())
        assert (content["failed"], content["skipped"]) == ([], [])


def test_a_sheet_for_each_modality(sample: Path) -> None:
    assert {path.stem for path in (sample / "preview").iterdir()} == set(MODALITIES)
    for path in (sample / "preview").iterdir():
        with Image.open(path) as sheet:
            assert min(sheet.size) > 200
            assert np.ptp(np.asarray(sheet)) > 200


def test_names_are_given(sample: Path) -> None:
    """Only instances, and the example of many organs, have no names."""
    without = {
        data_set
        for data_set, entry in records(sample)
        if any(label["name"] is None for label in entry["labels"])
    }
    assert without == {"totalsegmentator", "dsb2018", "nuclei"}


def test_again_nothing_happens(sample: Path, test_data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sample.rglob("*") if path.is_file()}
    assert main(["sample", str(test_data), str(sample), "--workers", "2"]) == 0
    after = {path: path.stat().st_mtime_ns for path in sample.rglob("*") if path.is_file()}
    assert after == before
