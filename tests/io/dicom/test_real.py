"""Real series and contours against the NIfTI files that others made of them."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsam2_ft.io import read_labels, read_volume
from medsam2_ft.io.dicom import scan

_CASES = [("CT", "CT", "CT"), ("PET", "PET", "PET"), ("MR", "MR_T1", "MR")]


@pytest.mark.parametrize(
    ("folder", "name", "modality"), _CASES, ids=[name for _, name, _ in _CASES]
)
def test_series_and_contours_equal_the_nifti_files(
    test_data: Path, folder: str, name: str, modality: str
) -> None:
    dicom = test_data / folder / "ibsi_sts_dicom" / "STS_008" / name
    nifti = test_data / folder / "ibsi_sts_nifti" / "STS_008"
    image = nibabel.load(nifti / f"{name}_image.nii.gz")
    mask = nibabel.load(nifti / f"{name}_mask.nii.gz")
    volume = read_volume(dicom / "image")
    labels = read_labels(dicom / "mask" / "RS.dcm", like=volume)

    np.testing.assert_allclose(volume.array, np.asarray(image.dataobj).T, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(labels.maps[0], np.asarray(mask.dataobj).T)
    assert labels.maps[0].any()
    assert volume.modality == modality
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # RAS to LPS
    spacing = np.array(volume.geometry.spacing_mm[::-1])
    ours = np.array(volume.geometry.direction).reshape(3, 3) * spacing
    np.testing.assert_allclose(ours, affine[:3, :3], atol=1e-5)
    np.testing.assert_allclose(volume.geometry.origin_mm, affine[:3, 3], atol=1e-4)
    assert labels.geometry == volume.geometry
    assert len(labels.maps) == 1
    assert labels.label_names == {1: f"GTV_Mass_{name}"}
    assert not any("STS" in note or "200109" in note for note in volume.notes + labels.notes)


def test_scan_joins_images_and_contours(test_data: Path) -> None:
    found = scan(test_data / "CT" / "ibsi_sts_dicom")
    images = [one for one in found if one.kind == "image"]
    labels = [one for one in found if one.kind == "labels"]
    assert [len(one.files) for one in images] == [51]
    assert len(labels) == 1
    assert labels[0].patient == images[0].patient
    assert labels[0].frame_of_reference == images[0].frame_of_reference
