"""One case after the other, from files to arrays, without the command around it."""

from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from nifti_sets import AFFINE, box_labels, ct_like, write_nifti
from numpy.typing import NDArray
from PIL import Image

from medsam2_ft.errors import UserError
from medsam2_ft.io.npz import write_case
from medsam2_ft.io.sources import Source, SourceKind
from medsam2_ft.prepare.cleanup import Cleanup
from medsam2_ft.prepare.convert import NoLabelsError, make_case
from medsam2_ft.prepare.pairing import Pair
from medsam2_ft.prepare.settings import make_settings
from medsam2_ft.prepare.sources import SourceFile
from medsam2_ft.types import Case, Geometry


def file_of(path: Path, files: tuple[Path, ...] = (), kind: SourceKind = "file") -> SourceFile:
    return SourceFile(Source(path, files, kind), Path(path.name))


def convert(image: Path, label: Path | SourceFile | None, **options: Any) -> tuple[Case, Any]:
    options = {
        "modality": "CT",
        "window": None,
        "cleanup": Cleanup(),
        "label_names": None,
    } | options
    label = file_of(label) if isinstance(label, Path) else label
    pair = Pair("case", file_of(image), label)
    case, details = make_case(pair, make_settings(**options))
    return case, details["notes"]


def write_png(path: Path, array: NDArray[Any]) -> Path:
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    return write_nifti(tmp_path / "ct.nii.gz", ct_like())


@pytest.fixture
def seg(tmp_path: Path) -> Path:
    return write_nifti(tmp_path / "seg.nii.gz", box_labels())


class TestGrid:
    def test_a_finer_label_grid(self, tmp_path: Path, ct: Path) -> None:
        """Twice as fine in every axis; SimpleITK resamples the same files."""
        fine = np.kron(box_labels(), np.ones((2, 2, 2), np.uint8))
        fine[3, 11, 9] = 3
        affine = AFFINE @ np.array([[0.5, 0, 0, -0.2], [0, 0.5, 0, -0.3], [0, 0, 0.5, -0.2],
                                    [0, 0, 0, 1]])  # fmt: skip
        label = write_nifti(tmp_path / "fine.nii.gz", fine, affine)
        case, notes = convert(ct, label)
        reader = SimpleITK.ReadImage
        expected = SimpleITK.Resample(
            reader(str(label)), reader(str(ct)), SimpleITK.Transform(),
            SimpleITK.sitkNearestNeighbor, 0,
        )  # fmt: skip
        np.testing.assert_array_equal(case.label_maps[0], SimpleITK.GetArrayFromImage(expected))
        assert "resampled to the image's grid (nearest) from (8, 40, 48) voxels" in notes[0]
        before, after = np.count_nonzero(fine), np.count_nonzero(case.label_maps[0])
        assert f"{before} label voxels ({before * 0.225:.6g} mm3) became {after} (" in notes[0]

    def test_slices(self, tmp_path: Path, ct: Path, seg: Path) -> None:
        case, notes = convert(ct, seg)
        assert notes == []
        sagittal, _ = convert(ct, seg, slices="sagittal")
        assert sagittal.image.shape == (24, 4, 20)
        assert sagittal.geometry.spacing_mm == pytest.approx((0.8, 2.5, 0.9))
        assert sagittal.image.flags.c_contiguous
        assert sagittal.label_maps[0].flags.c_contiguous
        # stored axes are x to left, y to posterior, z to superior
        np.testing.assert_array_equal(sagittal.image, case.image.transpose(2, 0, 1)[::-1, ::-1])
        np.testing.assert_array_equal(
            sagittal.label_maps[0], box_labels().transpose(2, 0, 1)[::-1, ::-1]
        )

    def test_thick_slices_the_wrong_way(self, tmp_path: Path) -> None:
        affine = np.diag([-2.5, -0.9, 0.8, 1.0])
        image = write_nifti(tmp_path / "a.nii", ct_like((24, 20, 4)), affine)
        labels = np.zeros((24, 20, 4), np.uint8)
        labels[3:9, 4:9, 1] = 1
        label = write_nifti(tmp_path / "b.nii", labels, affine)
        case, notes = convert(image, label)
        assert case.image.shape == (24, 20, 4)
        assert "do not lie across the thickest axis, x (spacing z y x 0.8 0.9 2.5 mm)" in notes[0]
        turned, notes = convert(image, label, slices="thickest")
        assert turned.image.shape == (4, 24, 20)
        assert notes == []

    def test_pictures_compare_their_shape(self, tmp_path: Path) -> None:
        gray = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
        mask = np.zeros((20, 30), np.uint8)
        mask[4:9, 5:20] = 255
        image, label = write_png(tmp_path / "i.png", gray), write_png(tmp_path / "m.png", mask)
        case, notes = convert(image, label, modality="xray", slices="coronal")
        np.testing.assert_array_equal(case.image[0], gray)
        np.testing.assert_array_equal(case.label_maps[0][0], mask // 255)
        assert (case.geometry, notes) == (Geometry(), [])
        write_png(label, mask.T)
        with pytest.raises(UserError, match=r"m\.png: shape \(1, 30, 20\).*i\.png"):
            convert(image, label, modality="xray")


class TestImage:
    def test_colour(self, tmp_path: Path) -> None:
        rgb = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
        mask = np.zeros((20, 30), np.uint8)
        mask[4:9] = 1
        image, label = write_png(tmp_path / "i.png", rgb), write_png(tmp_path / "m.png", mask)
        case, notes = convert(image, label, modality="dermoscopy")
        np.testing.assert_array_equal(case.image[0], rgb)
        assert notes == []
        case, notes = convert(image, label, modality="MR")
        np.testing.assert_array_equal(case.image[0], rgb)
        assert notes == ["MR in colour: kept as it is"]
        with pytest.raises(UserError, match="--window 40/400 cannot apply"):
            convert(image, label, modality="CT", window="40/400")

    def test_frames_are_a_video(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for name in ("image", "mask"):
            (tmp_path / name).mkdir()
        mask = np.zeros((16, 16), np.uint8)
        mask[4:9, 4:9] = 1
        frames = rng.integers(0, 255, (3, 16, 16, 3)).astype(np.uint8)
        masks = []
        for index, frame in enumerate(frames):
            write_png(tmp_path / f"image/{index}.png", frame)
            masks.append(write_png(tmp_path / f"mask/{index}.png", mask * (index < 2)))
        label = file_of(tmp_path / "mask", tuple(masks), "frames")
        case, notes = convert(tmp_path / "image", label, modality="endoscopy", slices="axial")
        assert case.is_video
        np.testing.assert_array_equal(case.image, frames)
        assert [int(plane.sum()) for plane in case.label_maps[0]] == [25, 25, 0]
        assert notes[-1] == "--slices axial left the slices as stored: a video has no directions"

    def test_modality_of_the_file(self, tmp_path: Path, ct: Path, seg: Path) -> None:
        with pytest.raises(UserError, match=r"ct\.nii\.gz: does not say its modality; give"):
            convert(ct, seg, modality=None)
        path = tmp_path / "x.npz"
        image = np.random.default_rng(0).integers(0, 255, (4, 20, 24)).astype(np.uint8)
        write_case(path, Case("x", image, (box_labels(),), modality="MR", is_video=False))
        case, notes = convert(path, None, modality=None)
        assert (case.modality, notes) == ("MR", [])
        case, notes = convert(path, None)
        assert case.modality == "CT"
        assert notes == ["the file says MR; --modality CT was used"]
        assert convert(path, None, video=True)[0].is_video
        with pytest.raises(UserError, match=r"x\.npz.*--channel 1 cannot apply"):
            convert(path, None, channel=1)

    def test_dicom_of_another_modality(self, test_data: Path) -> None:
        series = next(iter(sorted((test_data / "CT").rglob("*.dcm"))), None)
        if series is None:
            pytest.skip("no DICOM file in the CT folder")
        label = file_of(series)
        with pytest.raises(UserError, match=r"is CT by its header, not MR; leave --modality out"):
            convert(series.parent, label, modality="MR")

    def test_stored_boxes_stay_while_labels_do(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npz"
        image = np.random.default_rng(0).integers(0, 255, (4, 20, 24)).astype(np.uint8)
        boxes = np.array([[4, 5, 1, 9, 11, 2]], np.float32)
        grid = Geometry((2.0, 1.0, 1.0))
        stored = Case(
            "x", image, (box_labels(),), geometry=grid, modality="MR", boxes=boxes, box_labels=(1,)
        )
        write_case(path, stored)
        kept, notes = convert(path, None, modality=None)
        np.testing.assert_array_equal(kept.boxes, boxes)
        assert (kept.box_labels, notes) == ((1,), [])
        for change in ({"slices": "coronal"}, {"label_rules": {"merge": {3: [1]}}}):
            case, notes = convert(path, None, modality=None, **change)
            assert case.boxes is None
            assert "boxes stored with the case are left out" in notes[-1]


class TestLabels:
    def test_parts_take_the_names_of_the_rules(self, tmp_path: Path, ct: Path) -> None:
        files = []
        for label, name in ((2, "spleen"), (1, "liver")):
            path = tmp_path / f"{name}.nii.gz"
            files.append(write_nifti(path, (box_labels() == label).astype(np.uint8)))
        source = file_of(tmp_path, tuple(files), "parts")
        rules = {"names": {1: "liver", 4: "spleen"}, "regions": {"both": [1, 4]}}
        case, _ = convert(ct, source, label_rules=rules)
        np.testing.assert_array_equal(
            case.label_maps[0], np.array([0, 1, 4], np.uint8)[box_labels()]
        )
        assert case.label_names == {1: "liver", 4: "spleen"}
        assert case.regions == {"both": (1, 4)}
        with pytest.raises(UserError, match="'spleen' is not one of"):
            convert(ct, source, label_rules={"names": {1: "liver"}})
        objects, _ = convert(ct, source, label_rules={"values": {"parts": "objects"}})
        np.testing.assert_array_equal(objects.label_maps[0], box_labels())

    def test_values_rules_and_names(self, tmp_path: Path) -> None:
        gray = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
        colours = np.zeros((20, 30, 3), np.uint8)
        colours[2:9, 2:9] = (255, 0, 0)
        colours[12:15, 12:15] = (0, 255, 0)
        colours[18, 18] = (0, 0, 255)
        image, label = write_png(tmp_path / "i.png", gray), write_png(tmp_path / "m.png", colours)
        rules = {
            "values": {"legend": {"#ff0000": 1, "#00ff00": 2, "#0000ff": 3}},
            "drop": [3],
            "merge": {1: [1, 2]},
            "names": {1: "disc"},
        }
        case, _ = convert(image, label, modality="fundus", label_rules=rules)
        expected = (colours[..., 0] > 0) | (colours[..., 1] > 0)
        np.testing.assert_array_equal(case.label_maps[0][0], expected)
        assert case.label_names == {1: "disc"}

    def test_overlapping_channels_are_two_maps(self, tmp_path: Path, ct: Path) -> None:
        layers = np.zeros((2, 4, 20, 24), np.uint8)
        layers[0, 1:3, 4:12, 4:12] = 1
        layers[1, 2, 6:9, 6:9] = 1
        stored = nib.Nifti1Image(np.moveaxis(layers, 0, -1).transpose(2, 1, 0, 3), AFFINE)
        nib.save(stored, tmp_path / "seg.nii.gz")
        case, _ = convert(ct, tmp_path / "seg.nii.gz")
        for index, layer in enumerate(layers):
            np.testing.assert_array_equal(case.label_maps[index] == index + 1, layer == 1)

    def test_hdf5_holds_both(self, tmp_path: Path) -> None:
        path = tmp_path / "both.h5"
        with h5py.File(path, "w") as file:
            file["scans/first"] = ct_like(seed=1)
            file["scans/second"] = ct_like(seed=2)
            file["drawn/by_a"] = box_labels()
            file["drawn/by_b"] = box_labels()[::-1]
        rules = {"image_key": "scans/second", "values": {"key": "drawn/by_b"}}
        case, _ = convert(path, None, label_rules=rules)
        np.testing.assert_array_equal(case.label_maps[0], box_labels()[::-1])
        expected = np.rint((np.clip(ct_like(seed=2), -160.0, 240.0) + 160) / 400 * 255)
        assert np.abs(case.image.astype(int) - expected).max() <= 1
        with pytest.raises(UserError, match=r"both\.h5"):
            convert(path, None)

    def test_nothing_left(self, ct: Path, seg: Path) -> None:
        with pytest.raises(
            NoLabelsError, match=r"left nothing of label 1, 2 \(rules keep, min_voxels_3d\)"
        ):
            convert(ct, seg, label_rules={"keep": [2], "min_voxels_3d": 9999})

    def test_background_only(self, tmp_path: Path, ct: Path) -> None:
        empty = write_nifti(tmp_path / "e.nii", np.zeros((9, 9, 9), np.uint8), np.eye(4))
        with pytest.raises(NoLabelsError, match="background only"):
            convert(ct, empty)
        with pytest.raises(NoLabelsError, match="no label file was found"):
            convert(ct, None)


class TestRealData:
    @pytest.mark.parametrize("patient", ["STS_008", "STS_019"])
    def test_a_tumour_drawn_on_the_ct_lies_in_the_pet(self, test_data: Path, patient: str) -> None:
        image = test_data / f"PET/ibsi_sts_nifti/{patient}/PET_image.nii.gz"
        label = test_data / f"CT/ibsi_sts_nifti/{patient}/CT_mask.nii.gz"
        case, notes = convert(image, label, modality="PET")
        resampled = SimpleITK.Resample(
            SimpleITK.ReadImage(str(label)), SimpleITK.ReadImage(str(image)),
            SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 0,
        )  # fmt: skip
        np.testing.assert_array_equal(case.label_maps[0], SimpleITK.GetArrayFromImage(resampled))
        fine = nib.load(label)
        mm3 = np.count_nonzero(fine.dataobj) * np.prod(fine.header.get_zooms())
        got = int(case.label_maps[0].astype(bool).sum()) * np.prod(case.geometry.spacing_mm)
        assert got == pytest.approx(mm3, rel=0.03)
        assert f"({mm3:.6g} mm3) became" in notes[0]

    @pytest.mark.parametrize(("slices", "codes"), [("axial", "LPS"), ("stored", "PSR")])
    def test_a_sagittal_scan(self, test_data: Path, slices: str, codes: str) -> None:
        folder = test_data / "MR/sct_spinalcord"
        label = folder / "t2_seg-manual.nii.gz"
        case, _ = convert(folder / "t2.nii.gz", label, modality="MR", slices=slices)
        wanted = nib.orientations.axcodes2ornt(tuple(codes))
        source = nib.load(label)
        stored = nib.orientations.io_orientation(source.affine)
        turned = source.as_reoriented(nib.orientations.ornt_transform(stored, wanted))
        np.testing.assert_array_equal(case.label_maps[0], np.asarray(turned.dataobj).T)
        spacing = tuple(reversed(turned.header.get_zooms()))
        assert case.geometry.spacing_mm == pytest.approx(spacing)
