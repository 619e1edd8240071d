"""The real cases of benchmarks/transfer.py: seven patients, in two folds."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medsam2_ft.io.atomic import make_folder
from medsam2_ft.io.npz import find_cases, read_case, write_case
from medsam2_ft.prepare import Input, prepare_inputs

PATIENT = re.compile(r"STS_\d+|lesion_\d{6}|spleen\d+|brats_\d+_pat\d+")
# Test patients of each fold: as far as there are two patients of a kind, one of them is in each.
FOLDS = (
    ("STS_008", "lesion_000001", "lesion_000009", "brats_2013_pat0006"),
    ("STS_019", "lesion_000002", "spleen2"),
)
# Neighbouring 1 mm slices show nearly the same: one in four keeps the brain from ruling the rest.
THINNED, EVERY = "brain_", 4


def prepare(data: Path, out: Path) -> list[Path]:
    """Makes the cases, one label each; returns their files."""
    tumour = {"names": {1: "tumour"}}
    series = {"CT": "CT", "PET": "PET", "MR": "MR_T1"}
    inputs = [
        Input(
            data,
            data,
            modality=modality,  # type: ignore[arg-type]  # keys of a dict are plain strings
            name_prefix=f"{modality}_",
            image_glob=f"{modality}/ibsi_sts_nifti/{{patient}}/{name}_image.nii.gz",
            label_glob=f"{modality}/ibsi_sts_nifti/{{patient}}/{name}_mask.nii.gz",
            label_rules=tumour,
        )
        for modality, name in series.items()
    ]
    lesion = "CT/medsam2_recist_npz/CT_Lesion_{patient:??????}_{series}.npz"
    inputs += [
        Input(data, data, "CT", image_glob=lesion, label_glob=lesion, name_prefix="lesion_"),
        Input(
            data,
            data,
            "CT",
            slices="axial",
            image_glob="CT/ivadomed_spleen/{patient}_ct.nii.gz",
            label_glob="CT/ivadomed_spleen/{patient}_ct_seg-manual.nii.gz",
            label_rules={"names": {1: "spleen"}},
        ),
        Input(
            data,
            data,
            "MR",
            name_prefix="brain_",
            image_glob="MR/brats2015_deepmedic/{patient}/{sequence}_subtrMeanDivStd.nii.gz",
            label_glob="MR/brats2015_deepmedic/{patient}/OTMultiClass.nii.gz",
            label_rules={"merge": {1: [1, 2, 3, 4]}, "names": {1: "whole tumour"}},
        ),
    ]
    prepare_inputs(inputs, out, val_share=0.0, test_share=0.0, workers=1)
    return find_cases(out / "train")


def patient_of(name: str) -> str:
    """Returns the patient in the name of a case."""
    found = PATIENT.search(name)
    assert found is not None, f"{name}: names no patient"
    return found.group()


def make_folds(files: Sequence[Path], work: Path) -> list[Path]:
    """Writes one data folder per fold, with training and test cases; returns them."""
    folders = [work / f"fold{number}" for number in range(len(FOLDS))]
    for folder, unseen in zip(folders, FOLDS, strict=True):
        for file in files:
            split = "test" if patient_of(file.stem) in unseen else "train"
            target = make_folder(folder / split) / file.name
            if target.is_file():  # the store would be rebuilt
                continue
            case = read_case(file)
            if file.stem.startswith(THINNED):
                z_mm, y_mm, x_mm = case.geometry.spacing_mm
                geometry = replace(case.geometry, spacing_mm=(z_mm * EVERY, y_mm, x_mm))
                maps = tuple(labels[::EVERY] for labels in case.label_maps)
                case = replace(case, image=case.image[::EVERY], label_maps=maps, geometry=geometry)
            write_case(target, case)
    return folders
