from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from synthetic import make_volume, write_folder, write_npz

from medsam2_ft.__main__ import main
from medsam2_ft.inspection.plan import Item, find_items, plan_sheets, target_files
from medsam2_ft.inspection.preview import SOFTWARE
from medsam2_ft.inspection.sheet import LARGE_PX, SMALL_PX
from medsam2_ft.inspection.unprepared import Conversion
from medsam2_ft.overlays import GAP_PX
from medsam2_ft.types import Geometry, IntensityRule


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.info["Software"] == SOFTWARE
        return np.asarray(picture)


def items(*modalities: str | None) -> list[Item]:
    return [Item(Path(f"{i}.npz"), f"train/{i}", m, True) for i, m in enumerate(modalities)]


def test_one_case_gives_preview_png(here: Path, tiny_case: Path) -> None:
    assert main(["preview", str(tiny_case)]) == 0
    assert [path.name for path in here.iterdir()] == ["preview.png"]
    first = pixels_of(here / "preview.png")
    assert main(["preview", str(tiny_case), "--slices", "1"]) == 0  # its own file, silently
    assert pixels_of(here / "preview.png").shape != first.shape


def test_other_files_stay(here: Path, tiny_case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = here / "preview.png"
    Image.new("RGB", (3, 3)).save(target)
    for content in (target.read_bytes(), b"a text"):
        target.write_bytes(content)
        assert main(["preview", str(tiny_case)]) == 2
        assert "preview.png: exists and is no preview" in capsys.readouterr().err
        assert target.read_bytes() == content
    assert main(["preview", str(tiny_case), "--overwrite"]) == 0
    assert pixels_of(target).size


def test_a_folder_gives_one_picture_per_modality(here: Path, tmp_path: Path) -> None:
    for number, modality in enumerate(("CT", "MR", "CT", None)):
        write_npz(tmp_path / "cases" / "train" / f"c{number}.npz", modality=modality)
    (tmp_path / "cases" / "train" / "broken.npz").write_bytes(b"PK")
    assert main(["preview", str(tmp_path / "cases")]) == 0
    written = sorted(path.name for path in (here / "preview").iterdir())
    assert written == ["CT.png", "MR.png", "unknown.png"]
    two, one = (pixels_of(here / "preview" / name).shape for name in written[:2])
    assert two[1] == 4 * (SMALL_PX + GAP_PX) + GAP_PX  # four labelled slices in a row
    assert one[1] == 2 * (LARGE_PX + GAP_PX) + GAP_PX  # in two rows


def test_broken_cases_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "cases", 2)
    damaged = bytearray((folder / "case_000.npz").read_bytes())
    damaged[200:260] = bytes(60)  # header and directory stay readable
    (folder / "case_000.npz").write_bytes(damaged)
    assert main(["preview", str(folder)]) == 0
    assert "left out: " in (shown := capsys.readouterr().err)
    assert "case_000.npz" in shown
    assert main(["preview", str(folder / "case_000.npz")]) == 2


def test_per_case(here: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "cases", 2)
    assert main(["preview", str(folder), "--per_case", "--out", "sheets"]) == 0
    assert sorted(p.name for p in (here / "sheets").iterdir()) == ["case_000.png", "case_001.png"]


def test_the_plan_of_pictures() -> None:
    many = items(*["CT"] * 10, "MR")
    ct, mr = plan_sheets(many, 3, per_case=False)
    assert (ct.name, ct.title, len(mr.items)) == ("CT", "CT: 3 of 10 cases", 1)
    assert [item.name for item in ct.items] == ["train/0", "train/3", "train/6"]
    assert len(plan_sheets(many, 3, per_case=True)) == 11
    (one,) = plan_sheets(items(None), 3, per_case=False)
    assert one.name == "train_0"


def test_where_pictures_go(tmp_path: Path) -> None:
    assert target_files(["a"], None) == [Path("preview.png")]
    assert target_files(["a", "b"], None) == [Path("preview/a.png"), Path("preview/b.png")]
    assert target_files(["a"], Path("x.PNG")) == [Path("x.PNG")]
    assert target_files(["a", "A"], tmp_path) == [tmp_path / "a.png", tmp_path / "A-2.png"]


def write_ct(folder: Path) -> tuple[Path, Path]:
    """A volume of -200 to 300 with labels, as NRRD."""
    image, labels = make_volume((5, 32, 40), (1, 2))
    for name, array in (("ct", image.astype(np.int16) * 2 - 200), ("seg", labels)):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((0.5, 0.75, 3.0))
        sitk.WriteImage(volume, str(folder / f"{name}.nrrd"))
    return folder / "ct.nrrd", folder / "seg.nrrd"


def test_an_image_becomes_the_case_that_prepare_makes(tmp_path: Path) -> None:
    image, labels = write_ct(tmp_path)
    case = Conversion("CT", "40,400", labels).case(image)
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
    expected = np.rint((np.clip(stored.astype(float), -160, 240) + 160) / 400 * 255)
    np.testing.assert_array_equal(case.image, expected)
    np.testing.assert_array_equal(
        case.label_maps[0], sitk.GetArrayFromImage(sitk.ReadImage(str(labels)))
    )
    assert case.geometry == Geometry((3.0, 0.75, 0.5))
    assert (case.name, case.modality) == ("ct", "CT")
    assert Conversion().case(image).label_maps == ()


def test_windows_can_be_tried(here: Path, tmp_path: Path) -> None:
    image, labels = write_ct(tmp_path)
    shown = []
    for window in ("lung", "40/80"):
        options = ["--labels", str(labels), "--modality", "CT", "--window", window]
        assert main(["preview", str(image), *options]) == 0
        shown.append(pixels_of(here / "preview.png"))
    assert shown[0].shape == shown[1].shape
    assert (shown[0] != shown[1]).any(axis=-1).mean() > 0.2


def test_a_colour_picture(here: Path, tmp_path: Path) -> None:
    image, _ = make_volume((1, 60, 90), colour=True)
    Image.fromarray(image[0]).save(tmp_path / "photo.png")
    case = Conversion("endoscopy").case(tmp_path / "photo.png")
    np.testing.assert_array_equal(case.image, image)
    assert main(["preview", str(tmp_path / "photo.png")]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.npz"], "none.npz: no such file or folder"),
        (["CASE", "--window", "lung"], "--window is for images that are not npz cases"),
        (["CASE", "--labels", "x.nrrd"], "--labels is for images that are not npz cases"),
        (["CT", "CT", "--labels", "SEG"], "belongs to one image and there are 2"),
        (["CT", "--window", "lunge"], "window 'lunge' is not understood"),
        (["CT", "--modality", "MR", "--window", "lung"], "is a CT window"),
        (["CASE", "CASE", "--per_case", "--out", "x.png"], "--out x.png: is one file"),
        (["CASE", "--slices", "0"], "--slices is 0"),
        (["SEGNPZ"], "holds no image (imgs)"),
        (["CASE", "--out", "CT/x.png"], "ct.nrrd"),
    ],
)
def test_mistakes(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    tiny_case: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image, labels = write_ct(tmp_path)
    np.savez(tmp_path / "seg.npz", gts=np.ones((2, 3, 3), np.uint8))
    words_of = {"CASE": tiny_case, "CT": image, "SEG": labels, "SEGNPZ": tmp_path / "seg.npz"}
    given = [str(words_of.get(word, word)) for word in arguments]
    given = [word.replace("CT/", f"{image}/") for word in given]
    assert main(["preview", *given]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_real_dicom_with_contours(test_data: Path, here: Path) -> None:
    folder = test_data / "CT" / "ibsi_sts_dicom" / "STS_008" / "CT"
    twin = test_data / "CT" / "ibsi_sts_nifti" / "STS_008"
    case = Conversion(labels=folder / "mask" / "RS.dcm").case(folder / "image")
    same = Conversion("CT", labels=twin / "CT_mask.nii.gz").case(twin / "CT_image.nii.gz")
    assert case.modality == "CT"
    assert abs(case.image.astype(int) - same.image).max() <= 1
    assert (case.label_maps[0] > 0).sum() == pytest.approx((same.label_maps[0] > 0).sum(), rel=0.02)


def test_find_items_of_a_folder_that_is_one_image(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    (item,) = find_items([tmp_path / "series"], "CT", lambda error: None)
    assert (item.is_case, item.modality) == (False, "CT")


def test_the_rule_without_a_window(tmp_path: Path) -> None:
    image, labels = write_ct(tmp_path)
    kinds = {m: rule_of(image, m) for m in ("CT", "MR", "ultrasound")}
    assert kinds == {
        "CT": IntensityRule("window", -160.0, 240.0),
        "MR": IntensityRule("percentile", 0.5, 99.5),
        "ultrasound": IntensityRule("minmax"),
    }
    gray = sitk.Cast(sitk.ReadImage(str(labels)), sitk.sitkUInt8)
    sitk.WriteImage(gray, str(tmp_path / "gray.nrrd"))
    assert rule_of(tmp_path / "gray.nrrd", "CT") == IntensityRule("keep")


def rule_of(path: Path, modality: str) -> IntensityRule | None:
    return Conversion(modality).case(path).intensity
