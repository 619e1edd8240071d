"""Our NIfTI reader against nibabel: values, world coordinates, and what is refused."""

import gzip
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from io_world import RAS_TO_LPS, affine_of, rotation
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_labels, read_volume
from medsam2_ft.types import Geometry

DATA = np.random.default_rng(0).integers(-500, 500, (4, 5, 6)).astype(np.int16)  # x, y, z


def save(
    path: Path,
    data: NDArray[Any] = DATA,
    sform: NDArray[Any] | None = None,
    qform: NDArray[Any] | None = None,
    kind: Any = nib.Nifti1Image,
) -> Path:
    image = kind(data, None)
    image.set_qform(qform, 1 if qform is not None else 0)
    image.set_sform(sform, 2 if sform is not None else 0)
    nib.save(image, path)
    return path


def real_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.nii.gz"))


def test_every_real_nifti_file_agrees_with_nibabel(test_data: Path) -> None:
    paths = real_files(test_data)
    codes = set()
    compared = 0
    for path in paths:
        reference = nib.load(path)
        if reference.ndim == 4:
            with pytest.raises(UserError, match=r"is 4-D \(44 x 59 x 41 x 3"):
                read_volume(path)
            continue
        volume = read_volume(path)
        codes.add("".join(nib.aff2axcodes(reference.affine)))
        np.testing.assert_allclose(
            affine_of(volume.geometry), RAS_TO_LPS @ reference.affine, rtol=0, atol=1e-5
        )
        np.testing.assert_allclose(
            volume.array, np.asanyarray(reference.dataobj).T, rtol=0, atol=1e-6
        )
        compared += 1
    assert compared >= 20
    assert {"LPS", "RAS", "PSR"} <= codes


def test_real_label_files(test_data: Path) -> None:
    brats = test_data / "MR/brats2015_deepmedic/brats_2013_pat0006_1/OTMultiClass.nii.gz"
    labels = read_labels(brats)  # stored as float32
    assert labels.maps[0].dtype == np.uint8
    assert np.unique(labels.maps[0]).tolist() == [0, 1, 2, 3, 4]
    scaled = read_labels(brats.with_name("brainmask.nii.gz"))  # int32 times 2.3e-10, plus 0.5
    assert np.unique(scaled.maps[0]).tolist() == [0, 1]
    with pytest.raises(UserError, match="fractions"):
        read_labels(test_data / "PET/ibsi_sts_nifti/STS_008/PET_image.nii.gz")
    with pytest.raises(UserError, match="range from -1100 to 1207"):
        read_labels(test_data / "CT/totalsegmentator/example_ct_sm.nii.gz")


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("form", ["sform", "qform"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("flip", [1, -1])
def test_oblique_grids(tmp_path: Path, kind: Any, form: str, suffix: str, flip: int) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(20, -35, 50) * (0.7, 0.9, 4.0 * flip)
    affine[:3, 3] = (-12.5, 30, 7)
    path = save(tmp_path / f"x{suffix}", kind=kind, **{form: affine})
    volume = read_volume(path)
    np.testing.assert_allclose(affine_of(volume.geometry), RAS_TO_LPS @ affine, atol=1e-5)
    np.testing.assert_allclose(volume.geometry.spacing_mm, (4.0, 0.9, 0.7), atol=1e-6)
    np.testing.assert_array_equal(volume.array, DATA.T)


def test_the_sform_outranks_the_qform_and_the_voxel_size(tmp_path: Path) -> None:
    qform, sform = np.diag([1.0, 2, 3, 1]), np.diag([4.0, 5, 6, 1])
    geometry = read_volume(save(tmp_path / "x.nii", sform=sform, qform=qform)).geometry
    assert geometry.spacing_mm == (6.0, 5.0, 4.0)
    assert nib.load(tmp_path / "x.nii").header.get_zooms() == (1, 2, 3)


def test_without_any_form_the_voxel_size_remains(tmp_path: Path) -> None:
    image = nib.Nifti1Image(DATA, None)
    image.header.set_zooms((0.5, 0.75, 3.0))
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "x.nii")
    assert read_volume(tmp_path / "x.nii").geometry == Geometry((3.0, 0.75, 0.5))


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1e-3), ("mm", 1.0), ("meter", 1e3)])
def test_units(tmp_path: Path, unit: str, factor: float) -> None:
    image = nib.Nifti1Image(DATA, np.diag([1.0, 2, 3, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "x.nii")
    spacing = read_volume(tmp_path / "x.nii").geometry.spacing_mm
    np.testing.assert_allclose(spacing, np.array([3, 2, 1]) * factor)


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">i2", ">f4"]
)
def test_types_and_byte_orders(tmp_path: Path, dtype: str) -> None:
    data = np.abs(DATA % 100).astype(dtype)
    header = nib.Nifti1Header(endianness="big" if dtype.startswith(">") else "little")
    header.set_data_dtype(np.dtype(dtype))
    nib.save(nib.Nifti1Image(data, np.eye(4), header), tmp_path / "x.nii")
    array = read_volume(tmp_path / "x.nii").array
    assert array.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(array, data.T)


def test_scaled_values(tmp_path: Path) -> None:
    image = nib.Nifti1Image(DATA, np.eye(4))
    image.header.set_slope_inter(0.25, -3.0)
    nib.save(image, tmp_path / "x.nii")
    array = read_volume(tmp_path / "x.nii").array
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, nib.load(tmp_path / "x.nii").get_fdata().T)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 6, 1), (4, 5, 6, 1, 1)])
def test_fewer_axes_and_trailing_single_ones(tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    volume = read_volume(save(tmp_path / "x.nii", data, sform=np.diag([1.0, 2, 3, 1])))
    expected = data.reshape(4, 5, -1).T
    np.testing.assert_array_equal(volume.array, expected)
    assert volume.geometry.spacing_mm == (3.0, 2.0, 1.0)
    qform = read_volume(save(tmp_path / "q.nii", data, qform=np.diag([1.0, 2, 1, 1])))
    assert qform.geometry.spacing_mm == (1.0, 2.0, 1.0)


def test_rgb24_and_planar_colours(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (4, 5, 6, 3), dtype=np.uint8)
    rgb = np.ascontiguousarray(colours).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    volume = read_volume(save(tmp_path / "rgb.nii", rgb))
    np.testing.assert_array_equal(volume.array, colours.transpose(2, 1, 0, 3))
    planar = read_volume(save(tmp_path / "planar.nii", colours[:, :, :, None, :]))
    np.testing.assert_array_equal(planar.array, colours.transpose(2, 1, 0, 3))
    with pytest.raises(UserError, match="colour"):
        read_labels(tmp_path / "rgb.nii")


@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (4, 5, 6, 2), (4, 5, 6, 1, 2), (4, 5, 6, 3, 3)])
def test_four_axes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save(tmp_path / "x.nii", np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match=r"is 4-D .* pick one"):
        read_volume(path)


@pytest.mark.parametrize("shear", [1e-3, 1e-2])
def test_a_slight_shear_is_repaired_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shear: float
) -> None:
    affine = np.eye(4)
    affine[0, 1] = shear
    with caplog.at_level(logging.WARNING):
        geometry = read_volume(save(tmp_path / "x.nii", sform=affine)).geometry
    assert "sheared by" in caplog.text
    axes = np.array(geometry.direction).reshape(3, 3)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert np.abs(affine_of(geometry) - RAS_TO_LPS @ affine).max() <= shear


def test_rounding_of_the_header_is_no_shear(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(13, 7, -29) * (0.3, 0.3, 5.0)
    read_volume(save(tmp_path / "x.nii", sform=affine))
    assert caplog.text == ""


def test_a_tilted_gantry_is_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[1, 2] = np.tan(np.radians(10))
    with pytest.raises(UserError, match=r"sheared by 10\.0 degrees.*resample"):
        read_volume(save(tmp_path / "x.nii", sform=affine))


@pytest.mark.parametrize("bad", [np.diag([1.0, 0, 1, 1]), np.diag([np.nan, 1, 1, 1])])
def test_voxel_sizes_that_are_refused(tmp_path: Path, bad: NDArray[Any]) -> None:
    path = save(tmp_path / "x.nii", sform=np.eye(4))
    raw = bytearray(path.read_bytes())
    raw[280:328] = bad[:3].astype("<f4").tobytes()
    path.write_bytes(bytes(raw))
    with pytest.raises(UserError, match="voxel size"):
        read_volume(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    data = DATA.astype(np.float32)
    data[1, 2, 3] = bad
    path = save(tmp_path / "x.nii", data)
    for read in (read_volume, read_labels):
        with pytest.raises(UserError, match="in slice 3"):
            read(path)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (40, b"\x09\x00", "extents"),
        (40, b"\x00\x00", "extents"),
        (42, b"\x00\x00", "extents"),
        (70, b"\x20\x00", "data type 32"),
        (108, b"\x00\x00\x00\x00", "offset"),
        (108, np.float32(np.nan).tobytes(), "offset"),
        (108, np.float32(1e9).tobytes(), "missing"),
        (344, b"ni1\x00", "pair"),
        (0, b"\x00\x00\x00\x00", "not a NIfTI"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, offset: int, value: bytes, message: str) -> None:
    path = save(tmp_path / "x.nii")
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(value)] = value
    path.write_bytes(bytes(raw))
    with pytest.raises(UserError, match=message):
        read_volume(path)


def test_a_huge_header_takes_no_memory(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii")
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.array([32000] * 3, "<i2").tobytes()
    path.write_bytes(bytes(raw))
    with pytest.raises(UserError, match="MEDSAM2FT_MAX_VOXELS"):
        read_volume(path)


def test_a_wrong_checksum_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz")
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(UserError, match="CRC"):
        read_volume(path)


def test_files_that_are_no_nifti(tmp_path: Path) -> None:
    for name, content in {
        "text.nii": b"hello world",
        "empty.nii": b"",
        "text.nii.gz": b"hello world",
        "half.nii.gz": gzip.compress(b"\x5c\x01\x00\x00"),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read_volume(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        read_volume(tmp_path / "gone.nii")
