"""One channel of 4-D files, against nibabel and SimpleITK."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_volume

AFFINE = np.array([[-2.0, 0, 0, 5], [0, -3.0, 0, 6], [0, 0, 4.0, 7], [0, 0, 0, 1.0]])


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(-500, 500, (5, 6, 7, 3)).astype(np.int16)
    image = nib.Nifti1Image(values, AFFINE)
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz"


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_channel_of_nifti(nifti: Path, channel: int) -> None:
    volume = read_volume(nifti, channel=channel)
    expected = np.asarray(nib.load(nifti).dataobj)[..., channel].T
    np.testing.assert_allclose(volume.array, expected)
    assert volume.array.base is None
    assert volume.geometry.spacing_mm == (4.0, 3.0, 2.0)


@pytest.mark.parametrize("vector", [True, False])
def test_a_channel_of_nrrd(tmp_path: Path, vector: bool) -> None:
    array: Any = np.random.default_rng(0).random((2, 4, 5, 6)).astype(np.float32)
    if vector:
        image = SimpleITK.GetImageFromArray(np.moveaxis(array, 0, -1), isVector=True)
    else:
        image = SimpleITK.GetImageFromArray(array, isVector=False)
    SimpleITK.WriteImage(image, tmp_path / "a.nrrd")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd", channel=1).array, array[1])


def test_no_such_channel(nifti: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.nii.gz: has no channel 3; its 3 are 0 to 2"):
        read_volume(nifti, channel=3)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), AFFINE), tmp_path / "b.nii")
    assert read_volume(tmp_path / "b.nii", channel=0).array.shape == (4, 4, 4)
    with pytest.raises(UserError, match=r"c.png: channels of .png cannot be chosen"):
        read_volume(tmp_path / "c.png", channel=0)
