"""Which DICOM segmentation belongs to which series, on the real study of one patient."""

import shutil
from pathlib import Path

import pytest

from medsam2_ft.prepare.pairing import ANY_FILE, Sources, find_sources

MODALITIES = {"CT": "CT", "PET": "PET", "MR": "MR_T1"}


@pytest.fixture
def flat(test_data: Path, tmp_path: Path) -> Path:
    """Three series and their RTSTRUCTs in one folder, all in one frame of reference."""
    for modality, name in MODALITIES.items():
        folder = test_data / modality / "ibsi_sts_dicom/STS_008" / name
        for path in folder.glob("*/*.dcm"):
            target = tmp_path / "flat" / f"{name}_{path.parent.name}_{path.stem}"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(path, target)
    return tmp_path / "flat"


def find(root: Path, **options: str) -> Sources:
    globs = {"image_glob": ANY_FILE, "label_glob": ANY_FILE}
    return find_sources(root, root, exclude=root / "out", **{**globs, **options})


def pairs(sources: Sources) -> dict[str, str | None]:
    return {
        str(pair.image.series and pair.image.series.modality): pair.label and pair.label.path.name
        for pair in sources.pairs
    }


def test_a_segmentation_goes_to_the_series_that_it_refers_to(flat: Path) -> None:
    found = find(flat)
    assert pairs(found) == {m: f"{name}_mask_RS" for m, name in MODALITIES.items()}
    assert {len(pair.image.source.files) for pair in found.pairs} == {51, 28}
    assert found.unused_labels == ()
    assert len({pair.patient for pair in found.pairs}) == 1


def test_other_modalities_are_left_out_with_their_segmentations(flat: Path) -> None:
    found = find(flat, modality="PET")
    assert pairs(found) == {"PET": "PET_mask_RS"}
    assert found.unused_labels == ()
    assert sorted(line.split()[-1] for line in found.left_out) == ["(CT)", "(MR)"]


def test_a_frame_of_reference_that_series_share_says_nothing(flat: Path) -> None:
    for path in flat.glob("CT_image*"):
        path.unlink()  # the series that the first segmentation refers to
    (flat / "MR_T1_mask_RS").unlink()
    found = find(flat)
    assert pairs(found) == {"PET": "PET_mask_RS", "MR": None}
    assert found.unused_labels == ("CT_mask_RS",)


def test_a_frame_of_reference_of_one_series_decides(flat: Path) -> None:
    for path in (*flat.glob("CT_image*"), *flat.glob("MR*"), flat / "PET_mask_RS"):
        path.unlink()
    (flat / "sub").mkdir()
    shutil.move(flat / "CT_mask_RS", flat / "sub/other")
    shutil.copy(flat / "PET_image_000000", flat / "unrelated_seg.nii")  # never read here
    assert pairs(find(flat)) == {"PET": "other"}
