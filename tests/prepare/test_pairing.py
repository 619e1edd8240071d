from pathlib import Path

import pytest

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.pairing import ANY_FILE, Sources, find_sources


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def find(images: Path, labels: Path | None = None, **globs: str) -> Sources:
    return find_sources(
        images,
        labels or images,
        image_glob=globs.get("image_glob", ANY_FILE),
        label_glob=globs.get("label_glob", ANY_FILE),
        exclude=images / "out",
    )


def pairs(sources: Sources) -> dict[str, str | None]:
    return {
        pair.name: None if pair.label is None else pair.label.relative.as_posix()
        for pair in sources.pairs
    }


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("liver_1.nii.gz", "liver_1.nii.gz"),
        ("liver_1.nii.gz", "liver_1.seg.nrrd"),
        ("case7_0000.nii.gz", "case7.nii.gz"),
        ("sub-spleen2_ct.nii.gz", "sub-spleen2_ct_seg-manual.nii.gz"),
        ("brain1_image.nrrd", "brain1_label.nrrd"),
        ("P1_ct.mha", "P1-label.mha"),
        ("example_ct_sm.nii.gz", "example_seg.nii.gz"),
        ("Case_003.nii", "case_003_mask.nii"),
        ("P01/ct.nii.gz", "P01/ct_mask.nii.gz"),
        ("P01/ct.nii.gz", "P01_ct.nii.gz"),
        ("case1.npz", "final_case1.npz"),
        ("P01/flair.nii.gz", "P01/truth.nii.gz"),
    ],
)
def test_a_label_is_found_by_its_name(tmp_path: Path, image: str, label: str) -> None:
    # a second case makes sure that the pair is not chosen for want of others
    images = touch(tmp_path / "i", image, "zz/other9.nii.gz")
    labels = touch(tmp_path / "l", label, "zz/other9.nii.gz")
    found = pairs(find(images, labels))
    assert label in found.values()
    assert found["zz_other9"] == "zz/other9.nii.gz"
    assert len(found) == 2


def test_equal_names_in_folders_per_patient_stay_apart(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"S{n}/{k}" for n in (1, 2) for k in ("CT_image.nii", "CT_mask.nii")))
    assert pairs(find(root)) == {"S1_CT_image": "S1/CT_mask.nii", "S2_CT_image": "S2/CT_mask.nii"}


def test_modalities_in_one_folder_keep_their_own_masks(tmp_path: Path) -> None:
    names = [f"{m}_{k}.nii" for m in ("CT", "PET") for k in ("image", "mask")]
    assert pairs(find(touch(tmp_path, *names))) == {
        "CT_image": "CT_mask.nii",
        "PET_image": "PET_mask.nii",
    }


def test_nnunet_layout_in_one_root(tmp_path: Path) -> None:
    root = touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imgs/b.npz", "gts/b.npz")
    assert pairs(find(root)) == {"a_0000": "labelsTr/a.nii.gz", "b": "gts/b.npz"}


def test_channels_share_a_label(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a_0000.nii", "a_0001.nii", "b_0000.nii")
    labels = touch(tmp_path / "l", "a.nii", "b.nii")
    assert pairs(find(images, labels)) == {"a_0000": "a.nii", "a_0001": "a.nii", "b_0000": "b.nii"}


def test_a_label_of_another_case_is_not_taken(tmp_path: Path) -> None:
    # case_1 has no label; case_1_2's starts with its name but belongs to case_1_2
    images = touch(tmp_path / "i", "case_1.nii", "case_1_2.nii", "case_10.nii")
    labels = touch(tmp_path / "l", "case_1_2.nii", "case_10.nii")
    sources = find(images, labels)
    assert pairs(sources) == {"case_1": None, "case_10": "case_10.nii", "case_1_2": "case_1_2.nii"}
    assert sources.unused_labels == ()


def test_numbered_cases_are_not_channels(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "case_0001.nii", "case_0002.nii")
    labels = touch(tmp_path / "l", "case_0001_seg.nii", "case_0002_seg.nii", "old.nii")
    sources = find(images, labels)
    assert pairs(sources) == {"case_0001": "case_0001_seg.nii", "case_0002": "case_0002_seg.nii"}
    assert sources.unused_labels == ("old.nii",)


def test_several_labels_for_one_image_are_refused(tmp_path: Path) -> None:
    root = touch(tmp_path, "t2.nii.gz", "t2_seg-manual.nii.gz", "t2_seg-manual_labeled.nii.gz")
    with pytest.raises(UserError, match=r"t2\.nii\.gz: 2 label files .*t2_seg-manual\.nii\.gz"):
        find(root)
    assert pairs(find(root, label_glob="*labeled*")) == {"t2": "t2_seg-manual_labeled.nii.gz"}


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.nii", "A.nrrd")
    with pytest.raises(UserError, match="same name"):
        find(images, touch(tmp_path / "l", "a.nii"))


def test_single_files_pair_whatever_their_names(tmp_path: Path) -> None:
    root = touch(tmp_path, "CTChest4.nrrd", "Overlapping.seg.nrrd")
    sources = find(root / "CTChest4.nrrd", root / "Overlapping.seg.nrrd")
    assert pairs(sources) == {"CTChest4": "Overlapping.seg.nrrd"}


def test_hidden_files_and_the_output_are_left_out(tmp_path: Path) -> None:
    root = touch(tmp_path, "a.nii", "a_seg.nii", "._a.nii", ".b/c.nii", "out/train/a.npz", "x.txt")
    assert pairs(find(root)) == {"a": "a_seg.nii"}


def test_awkward_names_become_file_names(tmp_path: Path) -> None:
    root = touch(tmp_path, "Fall 3 (prä).nii", "Fall 3 (prä)_seg.nii")
    assert pairs(find(root)) == {"Fall-3-prä-": "Fall 3 (prä)_seg.nii"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "no image matches"),
        (("a.txt",), "known formats are .nii"),
        (("a_seg.nii", "b_mask.nii"), "every file counts as a label"),
    ],
)
def test_nothing_to_do_is_a_mistake(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(touch(tmp_path / "i", "keep/.x", *files))


def test_missing_folder_and_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: there is no such image"):
        find(tmp_path / "nowhere")
    touch(tmp_path, "a.txt")
    with pytest.raises(UserError, match="unknown image format"):
        find(tmp_path / "a.txt")
