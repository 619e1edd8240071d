"""Whatever way a file stores its axes: prepare, then labels put back, give the file's labels."""

from pathlib import Path
from typing import get_args

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from grids import ORIENTATIONS, affine_of, itk_image, oriented
from numpy.typing import NDArray

from medsam2_ft.io import read_labels, read_volume
from medsam2_ft.io.npz import read_case, write_case
from medsam2_ft.io.orient import Slices
from medsam2_ft.io.regrid import regrid_labels
from medsam2_ft.io.sources import Source
from medsam2_ft.prepare.cleanup import Cleanup
from medsam2_ft.prepare.convert import make_case
from medsam2_ft.prepare.pairing import Pair
from medsam2_ft.prepare.settings import make_settings
from medsam2_ft.prepare.sources import SourceFile
from medsam2_ft.types import Geometry, LabelVolume

SHAPE = (4, 6, 5)
SLICES: tuple[Slices, ...] = get_args(Slices)


def write(path: Path, array: NDArray[np.generic], geometry: Geometry) -> SourceFile:
    if path.suffix == ".nii":
        nib.save(nib.Nifti1Image(array.T, affine_of(geometry)), path)
    else:
        SimpleITK.WriteImage(itk_image(array, geometry), str(path))
    return SourceFile(Source(path), path.relative_to(path.parent))


def world_values(array: NDArray[np.generic], geometry: Geometry) -> set[tuple[float, ...]]:
    """World position (LPS, hundredths of a mm) and value of every voxel, by nibabel's affine."""
    z, y, x = np.indices(array.shape).reshape(3, -1)
    ras = nib.affines.apply_affine(affine_of(geometry), np.stack([x, y, z], axis=1))
    rows = np.column_stack([np.rint(ras * 100), array.ravel()]) + 0.0
    return set(map(tuple, rows.tolist()))


@pytest.mark.parametrize("suffix", [".nii", ".nrrd"])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_labels_come_back(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[float, ...], suffix: str
) -> None:
    rng = np.random.default_rng([*order, *(int(sign > 0) for sign in signs)])
    geometry = oriented(order, signs, rng, slant_degrees=40.0)
    image = rng.integers(0, 255, SHAPE).astype(np.uint8)
    labels = rng.integers(0, 4, SHAPE).astype(np.uint8)
    pair = Pair(
        "case",
        write(tmp_path / f"image{suffix}", image, geometry),
        write(tmp_path / f"labels{suffix}", labels, geometry),
    )
    source = read_volume(pair.image.path)
    np.testing.assert_array_equal(source.array, image)
    expected = world_values(labels, source.geometry)
    for slices in SLICES:
        settings = make_settings("ultrasound", None, Cleanup(), None, slices=slices)
        write_case(tmp_path / "case.npz", make_case(pair, settings)[0])
        case = read_case(tmp_path / "case.npz")
        assert world_values(case.label_maps[0], case.geometry) == expected
        back = regrid_labels(
            LabelVolume(case.label_maps, {}, case.geometry), source.geometry, SHAPE
        )
        np.testing.assert_array_equal(back.maps[0], labels)
        picture = regrid_labels(
            LabelVolume((case.image,), {}, case.geometry), source.geometry, SHAPE
        )
        np.testing.assert_array_equal(picture.maps[0], image)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::5])
def test_labels_stored_the_other_way_round(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[float, ...]
) -> None:
    """The label file permutes and flips the axes of the image: every voxel finds its place."""
    rng = np.random.default_rng(5)
    geometry = oriented((0, 1, 2), (1.0, 1.0, 1.0), rng)
    image = rng.integers(0, 255, SHAPE).astype(np.uint8)
    labels = rng.integers(0, 4, SHAPE).astype(np.uint8)
    ornt = np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)])
    other = nib.Nifti1Image(labels.T, affine_of(geometry)).as_reoriented(ornt)
    nib.save(other, tmp_path / "labels.nii")
    label = SourceFile(Source(tmp_path / "labels.nii"), Path("labels.nii"))
    pair = Pair("case", write(tmp_path / "image.nrrd", image, geometry), label)
    case, details = make_case(pair, make_settings("ultrasound", None, Cleanup(), None))
    np.testing.assert_array_equal(case.label_maps[0], labels)
    as_stored = read_labels(tmp_path / "labels.nii").maps[0]
    moved = as_stored.shape != SHAPE or not np.array_equal(as_stored, labels)
    assert [note for note in details["notes"] if "axes were turned" in note] == (
        details["notes"][:1] if moved else []
    )
