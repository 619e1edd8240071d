"""``medsam2-ft segment`` on one image: formats, geometry, prompts, overlays, bad input."""

import json
from pathlib import Path
from typing import Any

import av
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import synthetic
import torch
from numpy.typing import NDArray
from PIL import Image

from medsam2_ft.__main__ import main
from medsam2_ft.io import read_labels, read_volume
from medsam2_ft.io.npz import read_case
from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.types import IntensityRule, LabelVolume, Volume
from medsam2_ft.volume_prompts import prompts_from_labels

MODEL = "random:tiny_test"
BOX = np.array([8, 6, 20, 18], np.float32)


def run(*args: object) -> int:
    """Runs the command with the weights that ``direct`` has."""
    torch.manual_seed(0)
    return main(["segment", *map(str, args), "--model", MODEL, "--strategy", "box"])


def direct(volume: Volume, prompts: list[ObjectPrompt], **options: Any) -> LabelVolume:
    torch.manual_seed(0)
    return Segmenter.from_checkpoint(MODEL, strategy="box").segment(volume, prompts, **options)


def images() -> NDArray[np.int16]:
    gray, _ = synthetic.make_volume((6, 24, 30), (1, 2))
    return (gray.astype(np.int16) * 2 - 200).astype(np.int16)


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    """Coronal slices, flipped, tilted, with an offset; written by nibabel."""
    angle = 0.2
    tilt = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.array([[-0.8, 0, 0], [0, 0, 2.5], [0, -0.7, 0]])
    affine[:3, 3] = (40, -30, 12)
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(images().transpose(2, 1, 0), affine), path)  # type: ignore[attr-defined, no-untyped-call]
    return path


def nifti_mask(path: Path) -> NDArray[Any]:
    return np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)  # type: ignore[attr-defined]


def test_nifti_lies_where_its_image_lies(nifti: Path, tmp_path: Path) -> None:
    out = tmp_path / "seg.nii.gz"
    assert (
        run(nifti, "--box", "8,6,20,18@2", "5:2,2,1,9,9,3", "--modality", "CT", "--out", out) == 0
    )
    image, made = nib.load(nifti), nib.load(out)  # type: ignore[attr-defined]
    assert made.shape == image.shape
    assert np.allclose(made.affine, image.affine, atol=1e-5)
    assert made.header["sform_code"] > 0
    assert made.get_data_dtype() == np.uint8
    prompts = [
        ObjectPrompt.from_box(1, 2, BOX, (0, 5)),
        ObjectPrompt.from_box(5, 2, np.array([2, 2, 9, 9], np.float32), (1, 3)),
    ]
    volume = read_volume(nifti)
    expected = direct(Volume(volume.array, volume.geometry, modality="CT"), prompts)
    assert {1, 5} <= set(np.unique(expected.maps[0]).tolist())
    assert np.array_equal(nifti_mask(out), expected.maps[0])


@pytest.mark.parametrize(("axis", "flat"), [(1, [5, 1, 20, 4]), (2, [4, 1, 12, 4])])
def test_the_slicing_axis_stays_inside(
    nifti: Path, tmp_path: Path, axis: int, flat: list[int]
) -> None:
    out = tmp_path / "seg.nrrd"
    args = ["--axis", axis, "--range", "6:14", "--window", "0/400"]
    assert run(nifti, "--box", "5,4,1,20,12,4", *args, "--out", out) == 0
    made, image = sitk.ReadImage(str(out)), sitk.ReadImage(str(nifti))
    assert np.allclose(made.GetDirection(), image.GetDirection(), atol=1e-6)
    assert np.allclose(made.GetOrigin(), image.GetOrigin(), atol=1e-4)
    assert np.allclose(made.GetSpacing(), image.GetSpacing(), atol=1e-6)
    array = sitk.GetArrayFromImage(made)
    frame = 8 if axis == 1 else 12
    prompt = ObjectPrompt.from_box(1, frame, np.array(flat, np.float32), (6, 14))
    rule = IntensityRule("window", -200.0, 200.0)
    expected = direct(read_volume(nifti), [prompt], axis=axis, intensity=rule)
    assert expected.maps[0].any()
    assert np.array_equal(array, expected.maps[0])


def test_millimetres_mean_the_same_as_voxels(nifti: Path, tmp_path: Path) -> None:
    affine = nib.load(nifti).affine  # type: ignore[attr-defined]
    point = affine @ (14, 12, 2, 1)
    ras = ",".join(f"{value:.6f}" for value in point[:3])
    lps = ",".join(f"{value:.6f}" for value in point[:3] * [-1, -1, 1])
    made = []
    for name, args in {
        "a": ["--points", "14,12,2,1"],
        "b": ["--points", f"{ras},1", "--units", "mm", "--world", "ras"],
        "c": ["--points", f"{lps},1", "--units", "mm"],
    }.items():
        assert run(nifti, *args, "--modality", "CT", "--out", tmp_path / f"{name}.mha") == 0
        made.append(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{name}.mha"))))
    assert made[0].any()
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], made[2])


def test_named_segments(nifti: Path, tmp_path: Path) -> None:
    given = tmp_path / "p.json"
    given.write_text(json.dumps([
        {"object": 3, "name": "tumour", "kind": "box", "coordinates": [8, 6, 20, 18], "slice": 2},
        {"object": 4, "kind": "box", "coordinates": [2, 2, 1, 9, 9, 3]},
        {"case": "another", "kind": "box", "coordinates": [0, 0, 0, 1, 1, 1]},
    ]))  # fmt: skip
    args = ["--prompts", given, "--names", "4=liver", "--overlap", "keep", "--modality", "CT"]
    for suffix in (".seg.nrrd", ".npz"):
        assert run(nifti, *args, "--out", tmp_path / f"seg{suffix}") == 0
        found = read_labels(tmp_path / f"seg{suffix}")
        assert found.label_names == {3: "tumour", 4: "liver"}
        assert len(found.maps) == 2  # random weights: both masks cover most of the image
        assert np.allclose(found.geometry.direction, read_volume(nifti).geometry.direction)


def test_a_picture(tmp_path: Path) -> None:
    gray, _ = synthetic.make_volume((1, 40, 50), (1,), colour=True)
    Image.fromarray(gray[0]).save(tmp_path / "skin.png")
    out, sheet = tmp_path / "seg.png", tmp_path / "sheet.png"
    args = ["--box", "10,10,40,30", "--points", "20,20,1", "30,15,0", "--overlay", sheet]
    assert run(tmp_path / "skin.png", *args, "--out", out) == 0
    with Image.open(out) as made:
        assert made.size == (50, 40)
        assert made.mode == "L"
        assert set(np.unique(made)) == {0, 1}
    with Image.open(sheet) as picture:
        assert picture.width > 400
        colors = {tuple(c) for c in np.asarray(picture.convert("RGB")).reshape(-1, 3)}
    assert (86, 180, 233) in colors
    assert (235, 50, 50) in colors  # the point that does not lie on the object


def test_stored_boxes_and_simulated_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = np.array([[3, 3, 1, 20, 20, 4]], np.float32)
    case = synthetic.write_npz(
        tmp_path / "a.npz", (6, 24, 30), (1, 2), modality="CT", boxes=boxes,
        box_labels=np.array([2]),
    )  # fmt: skip
    assert run(case, "--out", tmp_path / "stored.nii") == 0
    assert set(np.unique(nifti_mask(tmp_path / "stored.nii"))) == {0, 2}
    capsys.readouterr()
    assert run(case, "--from_labels", case, "--out", tmp_path / "simulated.nii") == 0
    assert "SIMULATED" in capsys.readouterr().out
    read = read_case(case)
    expected = direct(Volume(read.image, read.geometry), prompts_from_labels(read))
    assert np.array_equal(nifti_mask(tmp_path / "simulated.nii"), expected.maps[0])


def test_a_drawn_mask(nifti: Path, tmp_path: Path) -> None:
    drawn = np.zeros((30, 24, 6), np.uint8)
    drawn[8:20, 6:18, 2] = 3
    affine = nib.load(nifti).affine  # type: ignore[attr-defined]
    nib.save(nib.Nifti1Image(drawn, affine), tmp_path / "m.nii.gz")  # type: ignore[attr-defined, no-untyped-call]
    out = tmp_path / "seg.nii.gz"
    assert run(nifti, "--mask", tmp_path / "m.nii.gz", "--modality", "CT", "--out", out) == 0
    made = nifti_mask(out)
    assert np.array_equal(made[2] == 3, drawn[..., 2].T == 3)
    assert set(np.unique(made)) <= {0, 3}


def test_a_film_keeps_the_frame_rate(tmp_path: Path) -> None:
    from fractions import Fraction

    from medsam2_ft.io.video_write import write_mp4

    clip, _ = synthetic.make_volume((5, 40, 48), (1,), colour=True)
    write_mp4(tmp_path / "clip.mp4", iter(clip), Fraction(25))
    film = tmp_path / "film.mp4"
    args = ["--box", "10,10,30,30@2", "--overlay", film, "--modality", "endoscopy"]
    assert run(tmp_path / "clip.mp4", *args, "--out", tmp_path / "seg.npz") == 0
    assert read_labels(tmp_path / "seg.npz").maps[0].shape == (5, 40, 48)
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 25
        assert (stream.width % 2, stream.height % 2) == (0, 0)
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(shown) == 5


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *args: object) -> str:
    """Runs a command that must end in one line and leave nothing behind."""
    before = sorted(folder.rglob("*"))
    capsys.readouterr()
    assert run(*args) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("RANDOM")]
    assert sorted(folder.rglob("*")) == before
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--box", "80,6,90,18@2"], "not a box inside the image of 30 x 24 pixels"),
        (["--box", "8,6,20@2"], "--box 8,6,20@2: has 3 numbers and a slice"),
        (["--box", "8,6,20,18@9"], "frame 9"),
        (["--box", "8,6,20,18@2", "--range", "4:5"], "hold the prompted frame 2"),
        (["--box", "1:8,6,20,18@2", "1:9,6,20,18@2"], "two boxes on slice 2"),
        (["--box", "8,6,20,18@2", "--mask", "x.nii"], "exclude each other"),
        (["--box", "8,6,20,18@2", "--prompts", "x.json"], "--prompts excludes --box"),
        ([], "nothing says what to segment"),
        (["--prompts", "none.json"], "none.json: cannot be read"),
        (["--box", "8,6,20,18@2", "--device", "abacus"], "device abacus"),
        (["--box", "8,6,20,18@2", "--overlay", "x.gif"], "overlays are .png or .mp4"),
        (["--box", "8,6,20,18@2", "--overlap", "keep"], "--overlap keep needs"),
        (["--box", "8,6,20,18@2", "--axis", "3"], "--axis"),
        (["--bx", "8,6,20,18@2"], "did you mean --box?"),
        (["--box", "8,6,20,18@2", "--channel", "1"], "channel"),
    ],
)
def test_bad_prompts_and_options(
    nifti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], reason: str
) -> None:
    out = tmp_path / "seg.nii.gz"
    assert reason in refused(capsys, tmp_path, nifti, "--modality", "CT", "--out", out, *args)


def test_inputs_are_not_replaced(
    nifti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--modality", "CT", "--from_labels", tmp_path / "m.nii", "--out"]
    (tmp_path / "m.nii").touch()
    for target in (nifti, tmp_path / "m.nii"):
        line = refused(capsys, tmp_path, nifti, *args, target)
        assert "is read and would be replaced" in line


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("seg.dcm", "is not DICOM"),
        ("seg.png", "PNG holds one slice"),
        ("seg.txt", ".txt is no format"),
        ("none/seg.nii", "there is no folder"),
    ],
)
def test_bad_targets(
    nifti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, reason: str
) -> None:
    args = ["--modality", "CT", "--box", "8,6,20,18@2", "--out", tmp_path / out]
    assert reason in refused(capsys, tmp_path, nifti, *args)


def test_bad_images(nifti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--box", "8,6,20,18@2", "--out", tmp_path / "seg.nii.gz"]
    assert "does not say its modality" in refused(capsys, tmp_path, nifti, *args)
    assert "no such file" in refused(capsys, tmp_path, tmp_path / "none.nii", *args)
    timed = tmp_path / "4d.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 4, 3), np.int16), np.eye(4)), timed)  # type: ignore[attr-defined, no-untyped-call]
    assert "4d.nii.gz" in refused(capsys, tmp_path, timed, *args, "--modality", "CT")
    case = synthetic.write_npz(tmp_path / "a.npz", (6, 24, 30), (1,), modality="CT")
    assert "--window cannot apply" in refused(capsys, tmp_path, case, *args, "--window", "lung")


def test_a_model_that_is_not_there(nifti: Path, tmp_path: Path) -> None:
    args = ["--modality", "CT", "--box", "8,6,20,18@2", "--out", str(tmp_path / "seg.nii.gz")]
    assert main(["segment", str(nifti), *args, "--model", "sam3.pt"]) == 2
    assert not (tmp_path / "seg.nii.gz").exists()


def test_prompts_of_other_cases_only(
    nifti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "p.json"
    given.write_text('[{"case": "mr", "kind": "box", "coordinates": [0, 0, 0, 1, 1, 1]}]')
    line = refused(capsys, tmp_path, nifti, "--prompts", given, "--out", tmp_path / "seg.nii.gz")
    assert "no prompt of case 'ct' but of mr" in line
