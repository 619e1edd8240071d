"""Real scans through the whole path: prepare, a few steps, 3D validation, export."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sam2.build_sam import build_sam2
from training_process import train

from medsam2_ft.data.datamodule import SliceDataModule
from medsam2_ft.io.npz import read_case, write_case
from medsam2_ft.prepare import prepare
from medsam2_ft.weights import VARIANTS, load_state

# images, labels (relative to the data folder), modality, labels expected in the case
SCANS = {
    "spleen": (
        "CT/ivadomed_spleen/sub-spleen2_ct.nii.gz",
        "CT/ivadomed_spleen/sub-spleen2_ct_seg-manual.nii.gz",
        "CT",
        1,
    ),
    "organs": (
        "CT/totalsegmentator/example_ct_sm.nii.gz",
        "CT/totalsegmentator/example_seg.nii.gz",
        "CT",
        41,
    ),
    "pet": (
        "PET/ibsi_sts_nifti/STS_008/PET_image.nii.gz",
        "PET/ibsi_sts_nifti/STS_008/PET_mask.nii.gz",
        "PET",
        1,
    ),
    "mr": (
        "MR/totalsegmentator/example_mr_sm.nii.gz",
        "MR/totalsegmentator/example_seg_mr.nii.gz",
        "MR",
        None,
    ),
}


def fine_tune(data: Path, run: Path) -> None:
    """Four steps of the tiny SAM2, then validation of every volume from one box per object."""
    values = {
        "run": run,
        "data.data_dir": data,
        "data.image_size": 64,
        "data.batch_size": 2,
        "data.num_workers": 0,
        "model.variant": "tiny_test",
        "model.weights": "random",
        "trainer.max_epochs": 1,
        "trainer.limit_train_batches": 4,
        "trainer.limit_val_batches": 4,
        "trainer.num_sanity_val_steps": 0,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": False,
    }
    log = run.parent / "log"
    code = train(["fit", *(f"--{k}={v}" for k, v in values.items())], log=log)
    assert code == 0, log.read_text()


def volume_scores(run: Path) -> list[dict[str, str]]:
    with (run / "volume_scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def split_in_two(case_folder: Path, data: Path) -> None:
    """Trains on the mirror image of the scan that validates: about the path, not the score."""
    source = next(case_folder.rglob("*.npz"))
    for split in ("train", "val"):
        (data / split).mkdir(parents=True)
    shutil.copy(source, data / "val" / source.name)
    case = read_case(source)
    maps = tuple(label_map[:, :, ::-1] for label_map in case.label_maps)
    mirrored = replace(case, image=case.image[:, :, ::-1], label_maps=maps)
    write_case(data / "train" / f"{source.stem}_mirrored.npz", mirrored)


@pytest.mark.parametrize("name", SCANS)
def test_scan_to_export(name: str, test_data: Path, tmp_path: Path) -> None:
    image, label, modality, n_labels = SCANS[name]
    prepare(test_data / image, test_data / label, tmp_path / "cases", modality=modality)
    split_in_two(tmp_path / "cases", tmp_path / "data")
    case = read_case(next((tmp_path / "data" / "val").glob("*.npz")))
    labels = {int(label) for labels in case.label_maps for label in np.unique(labels)} - {0}
    if n_labels is not None:
        assert len(labels) == n_labels
    fine_tune(tmp_path / "data", tmp_path / "run")
    scored = {int(row["label"]) for row in volume_scores(tmp_path / "run")}
    assert scored == labels
    sidecar = json.loads((tmp_path / "run/exports/best.json").read_text())
    assert sidecar["modalities"] == [modality]
    assert sidecar["intensity"] == [case.intensity.to_json()]


def test_lesions_as_published(test_data: Path, tmp_path: Path) -> None:
    """The npz files of another project, read where they lie, split by case."""
    source = test_data / "CT/medsam2_recist_npz"
    data = tmp_path / "data"
    data.mkdir()
    for file in sorted(source.glob("*.npz")):
        (data / file.name).symlink_to(file)
    module = SliceDataModule(
        str(data), image_size=64, val_share=0.34, store_dir=str(tmp_path / "s")
    )
    module.prepare_data()
    module.setup("fit")
    train_cases, val_cases = set(module.case_paths("train")), set(module.case_paths("val"))
    assert len(train_cases) == 2
    assert len(val_cases) == 1
    assert not train_cases & val_cases


@pytest.mark.slow
def test_real_model_on_real_lesions(test_data: Path, tmp_path: Path) -> None:
    """SAM2.1-Tiny at 256: two steps on CT lesions, one volume, a file that Meta's builder takes."""
    for split, number in (("train", 1), ("val", 2)):
        (tmp_path / "data" / split).mkdir(parents=True)
        file = next((test_data / "CT/medsam2_recist_npz").glob(f"CT_Lesion_00000{number}*.npz"))
        (tmp_path / "data" / split / file.name).symlink_to(file)
    values = {
        "run": tmp_path / "run",
        "data.data_dir": tmp_path / "data",
        "data.store_dir": tmp_path / "store",
        "data.image_size": 256,
        "data.batch_size": 2,
        "data.num_workers": 0,
        "model.variant": "sam2.1_hiera_tiny",
        "model.weights": "random",
        "trainer.max_epochs": 1,
        "trainer.limit_train_batches": 2,
        "trainer.limit_val_batches": 1,
        "trainer.num_sanity_val_steps": 0,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": False,
    }
    log = tmp_path / "log"
    assert train(["fit", *(f"--{k}={v}" for k, v in values.items())], log=log) == 0, log.read_text()
    exported = tmp_path / "run/exports/best.pt"
    core = build_sam2(VARIANTS["sam2.1_hiera_tiny"].config, str(exported), device="cpu")
    assert core.state_dict().keys() == load_state(exported).keys()
    assert len(volume_scores(tmp_path / "run")) == 1
