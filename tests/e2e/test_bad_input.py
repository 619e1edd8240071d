"""Bad cases, folders and scans: each is named, whatever lies beside it."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  the name that its documentation uses
import synthetic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import Refused, assert_says, command, listing, train

from medsam2_ft.data.datamodule import SliceDataModule
from medsam2_ft.errors import UserError

IMGS, GTS = synthetic.make_volume()
Spoil = Callable[[Path], object]


def keys(**changes: Any) -> Spoil:
    return lambda path: synthetic.write_npz(path, **changes)


def cut(path: Path) -> None:
    synthetic.write_npz(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# name -> (how the file is spoilt, what the line says: problem and remedy)
BAD_CASES: dict[str, tuple[Spoil, str, str]] = {
    "truncated": (cut, "truncated", "copy or prepare it again"),
    "empty_file": (lambda path: path.write_bytes(b""), "cannot be read", "prepare it again"),
    "folder": (lambda path: path.mkdir(), "Is a directory", "restore the file"),
    "pickled": (keys(imgs=np.array([IMGS, None], object)), "pickled object", "save it again"),
    "no_imgs": (keys(imgs=None), "no array 'imgs'", "medsam2-ft prepare"),
    "float": (keys(imgs=IMGS * 3.0 - 20), "outside 0-255", "medsam2-ft prepare"),
    "nan": (keys(imgs=np.where(IMGS > 100, np.nan, IMGS)), "NaN", "numpy.nan_to_num"),
    "grid": (keys(gts=GTS[:-1]), "(5, 48, 56)", "resample or exchange"),
    "spacing": (keys(spacing=np.zeros(3)), "spacing [0.0, 0.0, 0.0]", "correct it"),
    "four_axes": (keys(imgs=IMGS[None].repeat(2, 0)), "four axes", "pick one channel"),
    "negative_label": (keys(gts=GTS.astype(np.int16) - 1), "labels range from -1", "use 0 for"),
    "fractions": (keys(gts=GTS + 0.5), "fractions", "threshold it"),
}


@pytest.mark.parametrize("name", BAD_CASES)
def test_bad_case_among_good_ones_is_named(name: str, tmp_path: Path, refused: Refused) -> None:
    spoil, problem, remedy = BAD_CASES[name]
    data = synthetic.write_folder(tmp_path / "data", 2)
    spoil(data / "bad.npz")
    before = listing(tmp_path)
    line = refused(train("fit", data, tmp_path / "run"))
    assert_says(line, data / "bad.npz", problem, remedy)
    assert listing(tmp_path) == before
    stored = sorted(path.name[:8] for path in (data / ".store" / "cases").iterdir())
    assert stored == ["case_000", "case_001"]


def unlabelled(folder: Path) -> None:
    for name in ("a", "b"):
        synthetic.write_npz(folder / f"{name}.npz", gts=None)


def foreign(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("notes")
    (folder / "scan.nii").write_bytes(b"0" * 500)


BAD_FOLDERS: dict[str, tuple[str, Spoil, str, str]] = {
    "missing": ("fit", lambda path: None, "no such folder", "data.data_dir"),
    "file": ("fit", lambda path: path.touch(), "no such folder", "data.data_dir"),
    "empty": ("fit", lambda path: path.mkdir(), "no .npz case", "medsam2-ft prepare"),
    "foreign": ("fit", foreign, "no .npz case", "medsam2-ft prepare"),
    "unlabelled": ("fit", unlabelled, "none of the 2 cases has labels", "add label maps"),
    "only_val": (
        "fit",
        lambda path: synthetic.write_npz(path / "val" / "a.npz"),
        "no case to train on",
        "add cases",
    ),
    "no_val": (
        "validate",
        lambda path: synthetic.write_npz(path / "a.npz"),
        "no case to validate on",
        "folder val",
    ),
    "no_test": (
        "test",
        lambda path: synthetic.write_npz(path / "train" / "a.npz"),
        "no case to test on",
        "data.test_share",
    ),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_data_folder_is_named(name: str, tmp_path: Path, refused: Refused) -> None:
    subcommand, make, problem, remedy = BAD_FOLDERS[name]
    make(tmp_path / "data")
    before = listing(tmp_path)
    line = refused(train(subcommand, tmp_path / "data", tmp_path / "run"))
    assert_says(line, tmp_path / "data", problem, remedy)
    assert listing(tmp_path) == before


def write_mha(path: Path, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing((1, 1, 2, 1)[: array.ndim])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def without_spacing(path: Path, array: np.ndarray) -> None:
    write_mha(path, array)
    path.write_bytes(path.read_bytes().replace(b"Spacing = 1 1 2", b"Spacing = 1 1 0"))


def elsewhere(path: Path, array: np.ndarray) -> None:
    """A grid that the labels do not touch."""
    image = sitk.GetImageFromArray(array[:-1])
    image.SetOrigin((0, 0, 5000))
    sitk.WriteImage(image, str(path))


def cut_mha(path: Path, array: np.ndarray) -> None:
    write_mha(path, array)
    path.write_bytes(path.read_bytes()[:-2000])


HU = IMGS.astype(np.float32) - 100
BAD_SCANS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "grid": (lambda p: elsewhere(p, HU), "no label lies", "give the label file of this image"),
    "nan": (lambda p: write_mha(p, np.where(HU > 0, np.nan, HU)), "NaN", "numpy.nan_to_num"),
    "four_axes": (lambda p: write_mha(p, np.stack([HU, HU])), "4-D", "pick one"),
    "truncated": (lambda p: cut_mha(p, HU), "images/bad.mha", "copy"),
    "spacing": (lambda p: without_spacing(p, HU), "spacing", "correct"),
}


@pytest.mark.parametrize("name", BAD_SCANS)
def test_bad_scan_among_good_ones_is_named(name: str, tmp_path: Path, refused: Refused) -> None:
    spoil, problem, remedy = BAD_SCANS[name]
    for case in ("good", "bad"):
        write_mha(tmp_path / "images" / f"{case}.mha", HU)
        write_mha(tmp_path / "labels" / f"{case}.mha", GTS)
    spoil(tmp_path / "images" / "bad.mha")
    out = tmp_path / "out"
    folders = (tmp_path / "images", tmp_path / "labels", out)
    line = refused(command("prepare", *folders, "--modality", "CT", "--workers", 1))
    assert_says(line, "bad.mha", "1 of 2 cases failed", problem, remedy)
    files = {name for name in listing(out) if "." in name}
    assert files == {"train/good.npz", "manifest.json", "splits.json"}


NAMES = ["imgs", "gts", "spacing", "boxes", "direction", "label_names", "axes", "gts_1"]
DTYPES = ["u1", "i2", "u2", "f4", "f8", "?", "U3", "c8", "M8[s]", "i8"]


@st.composite
def spoilt_files(draw: st.DrawFn) -> bytes:
    """A case with a random array in place of another, or with random bytes changed."""
    content: dict[str, np.ndarray] = {"imgs": IMGS, "gts": GTS, "spacing": np.ones(3)}
    if draw(st.booleans()):
        shape = tuple(draw(st.lists(st.integers(0, 7), max_size=5)))
        array = np.zeros(shape, np.dtype(draw(st.sampled_from(DTYPES))))
        if array.dtype.kind in "iuf":
            array += np.array(draw(st.integers(0, 250)), array.dtype)
        content[draw(st.sampled_from(NAMES))] = array
    buffer = io.BytesIO()
    draw(st.sampled_from([np.savez, np.savez_compressed]))(buffer, **content)
    raw = bytearray(buffer.getvalue())
    for _ in range(draw(st.integers(0, 4))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.integers(len(raw) // 2, len(raw)))] if draw(st.booleans()) else raw)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=spoilt_files())
def test_any_npz_is_read_or_refused(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    synthetic.write_npz(folder / "good.npz")
    (folder / "odd.npz").write_bytes(raw)
    data = SliceDataModule(str(folder), image_size=64, batch_size=2, num_workers=0, val_share=0.0)
    complaint = "odd.npz"
    try:
        data.prepare_data()
        data.setup("fit")
        assert all(batch.images.shape[-1] == 64 for batch in data.train_dataloader())
    except UserError as error:
        complaint = str(error)
    shutil.rmtree(folder)
    assert "odd.npz" in complaint
    assert "\n" not in complaint
