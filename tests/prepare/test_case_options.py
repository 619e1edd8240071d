"""Options of one case: labels chosen by name, a channel of 4-D images, volumes that are videos."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from nifti_sets import AFFINE, box_labels, ct_like, write_nifti

from medsam2_ft.errors import UserError
from medsam2_ft.io import write_labels
from medsam2_ft.io.sources import Source
from medsam2_ft.prepare.cleanup import Cleanup
from medsam2_ft.prepare.convert import NoLabelsError, make_case
from medsam2_ft.prepare.pairing import Pair
from medsam2_ft.prepare.settings import make_settings
from medsam2_ft.prepare.sources import SourceFile
from medsam2_ft.types import Case, LabelVolume


def convert(image: Path, label: Path, **options: Any) -> tuple[Case, dict[str, Any]]:
    modality = options.pop("modality", "CT")
    files = [SourceFile(Source(path), Path(path.name)) for path in (image, label)]
    settings = make_settings(modality, None, Cleanup(), None, **options)
    return make_case(Pair("case", *files), settings)


class TestIdsByName:
    def test_names_choose_and_number(self, test_data: Path) -> None:
        """The lungs become one label; the sphere overlaps them and lies in another map."""
        folder = test_data / "CT/slicerio_chest"
        wanted = {"left lung": 4, "right lung": 4, "overlapping sphere": 9, "spleen": 2}
        case, details = convert(
            folder / "CTChest4.nrrd",
            folder / "SegmentationOverlapping.seg.nrrd",
            label_rules={"ids_by_name": wanted},
        )
        path = str(folder / "SegmentationOverlapping.seg.nrrd")
        layers = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
        lungs, sphere = np.isin(layers[..., 0], (5, 6)), layers[..., 1] == 1
        masks = {i: m == i for m in case.label_maps for i in np.unique(m) if i}
        assert sorted(masks) == [4, 9]
        np.testing.assert_array_equal(masks[4], lungs)
        np.testing.assert_array_equal(masks[9], sphere)
        assert case.label_names == {4: "right lung + left lung", 9: "overlapping sphere"}
        gone = {drop["label"]: drop["voxels"] for drop in details["dropped"]}
        others = {label: int((layers[..., 0] == label).sum()) for label in (1, 2, 3, 4, 7)}
        assert gone == {label: voxels for label, voxels in others.items() if voxels}

    def test_the_number_in_the_file_does_not_matter(self, tmp_path: Path) -> None:
        ct = write_nifti(tmp_path / "ct.nii.gz", ct_like())
        rules = {"ids_by_name": {"GTV": 1}, "names": {1: "tumour"}}
        for number, other in ((1, 2), (2, 1)):
            names = {number: " GTV", other: "heart"}
            write_labels(
                tmp_path / "a.seg.nrrd", LabelVolume((box_labels(),), names, read_geometry(ct))
            )
            case, _ = convert(ct, tmp_path / "a.seg.nrrd", label_rules=rules)
            np.testing.assert_array_equal(case.label_maps[0] == 1, box_labels() == number)
            assert case.label_names == {1: "tumour"}

    def test_nothing_of_that_name(self, tmp_path: Path) -> None:
        ct = write_nifti(tmp_path / "ct.nii.gz", ct_like())
        labels = LabelVolume((box_labels(),), {1: "heart", 2: "lung"}, read_geometry(ct))
        write_labels(tmp_path / "a.seg.nrrd", labels)
        with pytest.raises(NoLabelsError, match="no label is named GTV; there are heart, lung"):
            convert(ct, tmp_path / "a.seg.nrrd", label_rules={"ids_by_name": {"GTV": 1}})
        seg = write_nifti(tmp_path / "seg.nii.gz", box_labels())
        with pytest.raises(UserError, match=r"seg.nii.gz: does not name its labels"):
            convert(ct, seg, label_rules={"ids_by_name": {"GTV": 1}})

    @pytest.mark.parametrize(
        ("rules", "message"),
        [
            ({"ids_by_name": {"a": 1}, "keep": [1]}, "leave keep, drop, merge"),
            ({"ids_by_name": {"a": 1}, "merge": {2: [1]}}, "leave keep, drop, merge"),
            ({"ids_by_name": {"a": 0}}, "ids_by_name names label 0"),
            ({"ids_by_name": ["a"]}, "must map names to ids"),
            ({"ids_by_name": {"a": "b"}}, "must be a whole number"),
        ],
    )
    def test_mistakes(self, rules: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            make_settings("CT", None, Cleanup(), None, rules)


def read_geometry(path: Path) -> Any:
    from medsam2_ft.io import read_volume

    return read_volume(path).geometry


def test_a_channel_of_a_4d_image(tmp_path: Path) -> None:
    both = np.stack([ct_like(seed=0), ct_like(seed=1)])
    nib.save(nib.Nifti1Image(both.T, AFFINE), tmp_path / "both.nii.gz")
    seg = write_nifti(tmp_path / "seg.nii.gz", box_labels())
    for channel in (0, 1):
        case, _ = convert(tmp_path / "both.nii.gz", seg, channel=channel)
        alone = write_nifti(tmp_path / "one.nii.gz", both[channel])
        np.testing.assert_array_equal(case.image, convert(alone, seg)[0].image)
    with pytest.raises(UserError, match="4-D"):
        convert(tmp_path / "both.nii.gz", seg)
    with pytest.raises(UserError, match="--channel is -1"):
        make_settings("MR", None, Cleanup(), None, channel=-1)


def test_the_third_axis_is_time(tmp_path: Path) -> None:
    image = write_nifti(tmp_path / "a.nii.gz", ct_like().astype(np.uint8))
    seg = write_nifti(tmp_path / "seg.nii.gz", box_labels())
    case, _ = convert(image, seg, modality="ultrasound", video=True)
    assert case.is_video
    assert not convert(image, seg, modality="ultrasound")[0].is_video
    with pytest.raises(UserError, match="contradict each other"):
        make_settings("ultrasound", None, Cleanup(), None, slices="axial", video=True)
