"""NRRD, MHA, MHD and the written NIfTI: geometry kept, and seen alike by reference readers."""

from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK
from io_world import RAS_TO_LPS, affine_of, rotation

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_labels, read_volume, write_labels, write_volume
from medsam2_ft.types import Geometry, LabelVolume, Volume

sitk: Any = SimpleITK
RNG = np.random.default_rng(0)
GRAY = RNG.integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
COLOUR = RNG.integers(0, 255, (4, 5, 6, 3), dtype=np.uint8)
OBLIQUE = Geometry(
    (4.0, 0.9, 0.7), (-12.5, 30.0, 7.0), tuple(float(v) for v in rotation(20, -35, 50).ravel())
)
SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, np.bool_, np.float16]
)
def test_round_trip_keeps_values_and_geometry(tmp_path: Path, suffix: str, dtype: Any) -> None:
    array = np.abs(GRAY).astype(dtype)
    path = tmp_path / f"x{suffix}"
    write_volume(path, Volume(array, OBLIQUE))
    again = read_volume(path)
    np.testing.assert_array_equal(again.array, array)
    tolerance = 1e-5 if "nii" in suffix else 1e-12  # NIfTI's header holds float32
    np.testing.assert_allclose(affine_of(again.geometry), affine_of(OBLIQUE), atol=tolerance)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_colour_and_replacement(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    for array in (COLOUR[::-1], COLOUR, COLOUR[:1]):  # the second and third replace a file
        write_volume(path, Volume(array, OBLIQUE))
        np.testing.assert_array_equal(read_volume(path).array, array)
    assert not [p.name for p in tmp_path.iterdir() if "tmp" in p.name]


def test_nibabel_reads_what_we_write(tmp_path: Path) -> None:
    write_volume(tmp_path / "x.nii.gz", Volume(GRAY, OBLIQUE))
    image = nib.load(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj).T, GRAY)
    np.testing.assert_allclose(image.affine, RAS_TO_LPS @ affine_of(OBLIQUE), atol=1e-5)


def test_pynrrd_reads_what_we_write(tmp_path: Path) -> None:
    write_volume(tmp_path / "x.nrrd", Volume(GRAY, OBLIQUE))
    array, header = nrrd.read(str(tmp_path / "x.nrrd"))
    np.testing.assert_array_equal(array.T, GRAY)
    assert header["space"] == "left-posterior-superior"
    np.testing.assert_allclose(header["space directions"].T, affine_of(OBLIQUE)[:3, :3])
    np.testing.assert_allclose(header["space origin"], OBLIQUE.origin_mm)


def test_every_real_nrrd_file_agrees_with_pynrrd(test_data: Path) -> None:
    paths = [p for p in sorted(test_data.rglob("*.nrrd")) if not p.name.endswith(".seg.nrrd")]
    assert len(paths) >= 5
    for path in paths:
        volume = read_volume(path)
        array, header = nrrd.read(str(path))
        np.testing.assert_array_equal(volume.array, array.T)
        world = np.eye(4)
        world[:3, :3] = np.array(header["space directions"]).T
        world[:3, 3] = header["space origin"]
        to_lps = {"left-posterior-superior": np.eye(4), "right-anterior-superior": RAS_TO_LPS}
        np.testing.assert_allclose(
            affine_of(volume.geometry), to_lps[header["space"]] @ world, atol=1e-9
        )


def test_nrrd_in_ras_and_without_a_space(tmp_path: Path) -> None:
    header = {
        "space": "right-anterior-superior",
        "space directions": np.diag([0.5, 0.75, 3.0]),
        "space origin": np.array([1.0, 2.0, 3.0]),
    }
    nrrd.write(str(tmp_path / "ras.nrrd"), GRAY.T, header)
    geometry = read_volume(tmp_path / "ras.nrrd").geometry
    assert geometry.spacing_mm == (3.0, 0.75, 0.5)
    np.testing.assert_array_equal(geometry.origin_mm, [-1, -2, 3])
    np.testing.assert_array_equal(np.diag(np.reshape(geometry.direction, (3, 3))), [-1, -1, 1])
    nrrd.write(str(tmp_path / "plain.nrrd"), GRAY.T, {"spacings": [0.5, 0.75, 3.0]})
    assert read_volume(tmp_path / "plain.nrrd").geometry == Geometry((3.0, 0.75, 0.5))


def test_a_2d_image_has_one_slice(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(GRAY[0])
    image.SetSpacing((0.5, 0.75))
    image.SetDirection((0.0, 1.0, -1.0, 0.0))
    sitk.WriteImage(image, str(tmp_path / "x.mha"))
    volume = read_volume(tmp_path / "x.mha")
    np.testing.assert_array_equal(volume.array, GRAY[:1])
    assert volume.geometry.spacing_mm == (1.0, 0.75, 0.5)
    assert volume.geometry.direction == (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_more_axes_and_channels_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    sitk.WriteImage(sitk.Image([6, 5, 4, 2], sitk.sitkInt16), str(path))
    with pytest.raises(UserError, match=r"is 4-D .* pick one"):
        read_volume(path)
    for channels, dtype in ((2, np.uint8), (4, np.uint8), (3, np.float32)):
        array = np.zeros((4, 5, 6, channels), dtype)
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(path))
        with pytest.raises(UserError, match=f"{channels} channels"):
            read_volume(path)


def test_values_that_are_refused(tmp_path: Path) -> None:
    bad = GRAY.astype(np.float32)
    bad[2, 0, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(bad), str(tmp_path / "nan.nrrd"))
    with pytest.raises(UserError, match=r"nan\.nrrd: NaN .* slice 2"):
        read_volume(tmp_path / "nan.nrrd")
    sitk.WriteImage(sitk.GetImageFromArray(GRAY.astype(complex)), str(tmp_path / "c.nrrd"))
    with pytest.raises(UserError, match="complex"):
        read_volume(tmp_path / "c.nrrd")


def test_the_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in SUFFIXES:
        write_volume(tmp_path / f"x{suffix}", Volume(GRAY))
    monkeypatch.setenv("MEDSAM2FT_MAX_VOXELS", "119")
    for suffix in SUFFIXES:
        with pytest.raises(UserError, match="declares 120 values"):
            read_volume(tmp_path / f"x{suffix}")


def test_an_mhd_whose_data_is_gone(tmp_path: Path) -> None:
    write_volume(tmp_path / "x.mhd", Volume(GRAY))
    (data,) = (p for p in tmp_path.iterdir() if p.suffix != ".mhd")
    data.unlink()
    with pytest.raises(UserError, match=r"x\.zraw.* is missing"):
        read_volume(tmp_path / "x.mhd")


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".seg.nrrd", ".npz"])
def test_labels_round_trip(tmp_path: Path, suffix: str) -> None:
    labels = (np.abs(GRAY) % 3).astype(np.uint16)
    labels[0, 0, 0] = 300
    path = tmp_path / f"x{suffix}"
    write_labels(path, LabelVolume((labels,), {}, OBLIQUE))
    again = read_labels(path)
    assert again.maps[0].dtype == np.uint16
    np.testing.assert_array_equal(again.maps[0], labels)
    np.testing.assert_allclose(affine_of(again.geometry), affine_of(OBLIQUE), atol=1e-5)


def test_npz_volumes_and_labels(tmp_path: Path) -> None:
    write_volume(tmp_path / "x.npz", Volume(COLOUR, OBLIQUE))
    volume = read_volume(tmp_path / "x.npz")
    np.testing.assert_array_equal(volume.array, COLOUR)
    assert volume.geometry == OBLIQUE
    with pytest.raises(UserError, match="no labels"):
        read_labels(tmp_path / "x.npz")
    with pytest.raises(UserError, match="intensity rule"):
        write_volume(tmp_path / "y.npz", Volume(GRAY))
    one, two = (GRAY > 0).astype(np.uint8), (GRAY > 500).astype(np.uint8) * 2
    (tmp_path / "gts").mkdir()
    write_labels(tmp_path / "gts" / "x.npz", LabelVolume((one, two), {2: "core"}, OBLIQUE))
    for path in (tmp_path / "gts" / "x.npz", tmp_path / "x.npz"):  # alone, and with its image
        labels = read_labels(path)
        np.testing.assert_array_equal(labels.maps, (one, two))
        assert labels.label_names == {2: "core"}
        assert labels.geometry == OBLIQUE


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"other": np.zeros(3)}, "no array 'gts'"),
        ({"gts": np.zeros((2, 3, 4, 5), np.uint8)}, "one label map"),
        ({"gts": np.zeros((0, 3), np.uint8)}, "one label map"),
        ({"gts": np.zeros((3, 4), np.uint8), "gts_1": np.zeros((3, 5), np.uint8)}, "gts_1"),
    ],
)
def test_lone_label_files_that_are_refused(tmp_path: Path, arrays: Any, message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_labels(tmp_path / "x.npz")


def test_suffixes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.svg is not an image; use .*\.nii\.gz"):
        read_volume(tmp_path / "x.svg")
    with pytest.raises(UserError, match="no suffix"):
        write_volume(tmp_path / "x", Volume(GRAY))
    with pytest.raises(UserError, match="is a segmentation, not an image"):
        read_volume(tmp_path / "x.seg.nrrd")
    with pytest.raises(UserError, match="no such file"):
        read_volume(tmp_path / "gone.nrrd")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_not_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    volumes = {
        "empty": Volume(GRAY[:0]),
        "spacing": Volume(GRAY, Geometry((0.0, 1.0, 1.0))),
        "direction": Volume(GRAY, Geometry(direction=(1.0,) * 9)),
        "cannot write": Volume(GRAY.astype(complex)),
        "channel": Volume(np.zeros((4, 5, 6, 2), np.uint8)),
    }
    for message, volume in volumes.items():
        with pytest.raises(UserError, match=message):
            write_volume(path, volume)
    labels = {
        "overlap": LabelVolume((np.zeros((1, 2, 3), np.uint8),) * 2),
        "no label map": LabelVolume(()),
        "range from": LabelVolume((GRAY,)),
    }
    for message, label_volume in labels.items():
        with pytest.raises(UserError, match=message):
            write_labels(path, label_volume)
    with pytest.raises(UserError, match="cannot be written"):
        write_volume(tmp_path / "gone" / path.name, Volume(GRAY))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".nrrd", ".mhd"])
def test_a_writer_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"x{suffix}"
    write_volume(path, Volume(GRAY))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(image: Any, name: str, **_: Any) -> None:
        Path(name).write_bytes(b"half")
        raise RuntimeError("disk\nfull")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(UserError, match=r"cannot be written \(disk full\)"):
        write_volume(path, Volume(COLOUR))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_two_file_format_whose_folder_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("medsam2_ft.io.itk.sync_and_replace", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        write_volume(tmp_path / "x.mhd", Volume(GRAY))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_the_data_is_replaced_before_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    order: list[str] = []
    monkeypatch.setattr(
        "medsam2_ft.io.itk.sync_and_replace", lambda _, target: order.append(target.name)
    )
    write_volume(tmp_path / f"x{suffix}", Volume(GRAY))
    assert len(order) == 2
    assert order[-1] == f"x{suffix}"
