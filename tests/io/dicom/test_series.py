"""Order and geometry of DICOM series, against SimpleITK and by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from dicom_files import SECRET, along_z, base, image, put_pixels, refused, save, series, volume_of
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_volume
from medsam2_ft.io.dicom import read_folder, read_series


@pytest.mark.parametrize("seed", range(4))
def test_oblique_series_as_simpleitk_reads_it(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes = Rotation.random(rng=seed).as_matrix()
    step, origin = float(rng.uniform(0.5, 6)), rng.uniform(-100, 100, 3)
    volume = volume_of(seed=seed)
    positions = [origin + axes[:, 2] * step * z for z in range(len(volume))]
    files = series(tmp_path, volume, positions, orientation=axes[:, :2].T.ravel())
    read = read_series(rng.permutation(np.array(files)).tolist())

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    expected = reader.Execute()
    np.testing.assert_array_equal(read.array, volume)
    np.testing.assert_array_equal(read.array, SimpleITK.GetArrayFromImage(expected))
    np.testing.assert_allclose(read.geometry.spacing_mm[::-1], expected.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(read.geometry.origin_mm, expected.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(read.geometry.direction, expected.GetDirection(), atol=1e-6)
    assert read.modality == "CT"
    assert read.has_geometry
    assert read.array.dtype == np.int16
    assert read.notes == ()


def test_pixel_spacing_is_row_then_column(tmp_path: Path) -> None:
    read = read_series(series(tmp_path, volume_of(), along_z(5)))
    assert read.geometry.spacing_mm == (2.0, 0.5, 0.25)


def test_a_file_and_a_folder_through_the_common_reader(tmp_path: Path) -> None:
    files = series(tmp_path / "deep" / "er", volume_of(), along_z(5))
    (tmp_path / "readme.txt").write_text("no DICOM")
    np.testing.assert_array_equal(read_volume(tmp_path).array, volume_of())
    one = read_volume(files[2])
    np.testing.assert_array_equal(one.array, volume_of()[2:3])
    assert one.geometry.origin_mm == (-10.0, 20.0, 9.0)
    assert one.geometry.spacing_mm == (2.0, 0.5, 0.25)  # SliceThickness


def test_identical_duplicates_are_taken_once(tmp_path: Path) -> None:
    files = series(tmp_path / "a", volume_of(), along_z(5))
    files += series(tmp_path / "b", volume_of()[1:3], along_z(5)[1:3])
    read = read_series(files)
    np.testing.assert_array_equal(read.array, volume_of())
    assert read.notes == ("2 slices that are there twice are taken once",)


def test_different_images_at_one_place_arerefused(tmp_path: Path) -> None:
    def echo(value: str) -> Callable[[int, Dataset], None]:
        return lambda z, dataset: setattr(dataset, "EchoTime", value)

    files = series(tmp_path / "a", volume_of(), along_z(5), echo("2.3"))
    files += series(tmp_path / "b", volume_of(seed=1), along_z(5), echo("4.6"))
    line = refused(files, "up to 2 different images lie at the same place in 5 of 5 slices")
    assert "EchoTime (2.3, 4.6)" in line


def test_missing_slices_arerefused(tmp_path: Path) -> None:
    files = series(tmp_path, volume_of((9, 4, 4)), along_z(9))
    line = refused(files[:3] + files[5:], "2 slices are missing in 1 places")
    assert "after slice 3" in line


@pytest.mark.parametrize(
    ("shift", "outcome"),
    [(0.015, "silent"), (0.1, "noted"), (0.5, "refused")],
)
def test_uneven_spacing(tmp_path: Path, shift: float, outcome: str) -> None:
    positions = [(x, y, z + shift * (i == 3)) for i, (x, y, z) in enumerate(along_z(8))]
    files = series(tmp_path, volume_of((8, 4, 4)), positions)
    if outcome == "refused":
        refused(files, "unevenly spaced")
        return
    read = read_series(files)
    assert read.geometry.spacing_mm[0] == pytest.approx(2.0)
    assert bool(read.notes) == (outcome == "noted")


def test_rounded_positions_keep_both_ends(tmp_path: Path) -> None:
    places = [round(2 / 3 * z, 1) for z in range(31)]  # gaps of 0.7 and 0.6
    files = series(tmp_path, volume_of((31, 4, 4)), [(0.0, 0.0, z) for z in places])
    read = read_series(files)
    assert read.geometry.spacing_mm[0] == pytest.approx(2 / 3)
    assert read.notes == ("slices are 0.6 to 0.7 mm apart; 0.6667 mm is taken",)


def test_drift_that_no_single_gap_shows_isrefused(tmp_path: Path) -> None:
    places = np.concatenate([np.arange(20) * 2.0, 40 + np.arange(20) * 2.1])
    refused(series(tmp_path, volume_of((40, 2, 2)), [(0, 0, z) for z in places]), "unevenly")


@pytest.mark.parametrize(("degrees", "outcome"), [(0.01, "silent"), (0.3, "noted"), (5, "refused")])
def test_gantry_tilt(tmp_path: Path, degrees: float, outcome: str) -> None:
    slope = float(np.tan(np.radians(degrees)))
    positions = [(x, y + 2.0 * z * slope, p) for z, (x, y, p) in enumerate(along_z(8))]
    files = series(tmp_path, volume_of((8, 4, 4)), positions)
    if outcome == "refused":
        refused(files, "tilted gantry")
    else:
        notes = read_series(files).notes
        assert bool(notes) == (outcome == "noted")


def test_few_localisers_are_left_out(tmp_path: Path) -> None:
    files = series(tmp_path / "a", volume_of((8, 4, 4)), along_z(8))
    coronal = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    files += series(tmp_path / "b", volume_of((1, 4, 4)), [(0, 0, 0)], orientation=coronal)
    read = read_series(files)
    np.testing.assert_array_equal(read.array, volume_of((8, 4, 4)))
    assert read.notes == ("1 of 9 images differ in orientation or size and are left out",)


def test_many_other_planes_arerefused(tmp_path: Path) -> None:
    files = series(tmp_path / "a", volume_of(), along_z(5))
    files += series(tmp_path / "b", volume_of((5, 8, 8)), along_z(5))
    line = refused(files, "do not fit together")
    assert "5 of 7 x 6 axial" in line
    assert "5 of 8 x 8 axial" in line


def test_orientation_that_differs_by_rounding_is_one_volume(tmp_path: Path) -> None:
    def nudge(z: int, dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = [1, (0.00049, 0.00051)[z % 2], 0, 0, 1, 0]

    assert read_series(series(tmp_path, volume_of(), along_z(5), nudge)).array.shape == (5, 6, 7)


def test_sheared_orientation(tmp_path: Path) -> None:
    files = series(tmp_path, volume_of(), along_z(5), orientation=(1, 0, 0, 0.1, 0.995, 0))
    refused(files, "perpendicular")


def test_modalities_are_not_mixed(tmp_path: Path) -> None:
    files = series(tmp_path / "a", volume_of(), along_z(5))
    files += series(tmp_path / "b", volume_of(), along_z(5), modality="MR")
    refused(files, "mixes the modalities CT, MR")


def test_images_without_positions_are_no_volume(tmp_path: Path) -> None:
    files = [save(image(volume_of()[z], None, modality="MG"), tmp_path / str(z)) for z in range(2)]
    refused(files, "do not say where they lie")
    read = read_series(files[:1])
    assert not read.has_geometry
    assert read.modality == "mammography"
    assert read.geometry.spacing_mm == (1.0, 0.5, 0.25)


def test_detector_and_ultrasound_spacing(tmp_path: Path) -> None:
    dataset = put_pixels(base(modality="DX"), volume_of()[0])
    dataset.ImagerPixelSpacing = [0.2, 0.3]
    read = read_series([save(dataset, tmp_path / "dx")])
    assert (read.geometry.spacing_mm, read.has_geometry) == ((1.0, 0.2, 0.3), False)
    dataset = put_pixels(base(modality="US"), volume_of()[0])
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.03, -0.02
    dataset.SequenceOfUltrasoundRegions = [region]
    read = read_series([save(dataset, tmp_path / "us")])
    np.testing.assert_allclose(read.geometry.spacing_mm, (1.0, 0.2, 0.3))
    dataset = put_pixels(base(modality="XC"), volume_of()[0])
    read = read_series([save(dataset, tmp_path / "xc")])
    assert (read.geometry.spacing_mm, read.modality) == ((1.0, 1.0, 1.0), None)
    assert read.notes == ("no pixel spacing in the file; 1 mm is taken",)


def test_position_without_spacing(tmp_path: Path) -> None:
    files = series(
        tmp_path, volume_of(), along_z(5), lambda z, dataset: delattr(dataset, "PixelSpacing")
    )
    refused(files, "no PixelSpacing")


def test_folder_with_two_series_or_none(tmp_path: Path) -> None:
    series(tmp_path / "a", volume_of(), along_z(5))
    series(tmp_path / "b", volume_of(), along_z(5), series="1.2.4")
    with pytest.raises(UserError, match="holds 2 images") as caught:
        read_folder(tmp_path)
    assert SECRET not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds neither"):
        read_folder(tmp_path / "empty")
    with pytest.raises(UserError, match="no such folder"):
        read_folder(tmp_path / "gone")


def test_no_files_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no files"):
        read_series([])
    refused([tmp_path / "gone"], "No such file")
