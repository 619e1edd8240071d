"""Releases of CT, MR and ultrasound volumes, written with literal file names."""

import json
from pathlib import Path

import numpy as np
from release import Expected, Release, by_id, gray, hounsfield, ids, nifti

AMOS_NAMES = {1: "spleen", 6: "liver", 15: "prostate or uterus"}


def amos(root: Path) -> Release:
    cases = {}
    for number, folder, modality in (
        ("0001", "Tr", "CT"),
        ("0500", "Va", "CT"),
        ("0507", "Tr", "MR"),
        ("0600", "Va", "MR"),
    ):
        labels = ids(1, 6, 15, seed=int(number) % 5)
        nifti(root / f"images{folder}/amos_{number}.nii.gz", hounsfield(int(number)) + 200)
        nifti(root / f"labels{folder}/amos_{number}.nii.gz", labels)
        name = f"amos_{number}"
        cases[name] = Expected(modality, by_id(labels), number, AMOS_NAMES)
    nifti(root / "imagesTs/amos_0002.nii.gz", hounsfield())
    return Release(cases, {"amos_0002": "no label"})


def brats(root: Path) -> Release:
    parts = {1: "necrotic core", 2: "edema", 3: "enhancing tumour", 4: "enhancing tumour"}
    cases = {}
    visits = [
        ("BraTS20_Training_001", "BraTS20_Training_001", "_", (1, 2, 4)),
        ("BraTS2021_00000", "BraTS2021_00000", "_", (1, 2, 4)),
        ("BraTS-GLI-00005", "BraTS-GLI-00005-000", "-", (1, 2, 3)),
        ("BraTS-GLI-00005", "BraTS-GLI-00005-001", "-", (1, 2, 3)),
        ("BraTS-GLI-02405", "BraTS-GLI-02405-100", "-", (1, 2, 3, 4)),
    ]
    for seed, (patient, visit, joint, labels) in enumerate(visits):
        label_map = ids(*labels, seed=seed)
        nifti(root / visit / f"{visit}{joint}seg.nii.gz", label_map)
        names = parts
        if visit.endswith("-100"):  # after treatment, from 2024 on
            names = {**parts, 4: "resection cavity"}
        core = tuple(i for i in labels if names[i] in ("necrotic core", "enhancing tumour"))
        regions = {"whole tumour": tuple(sorted({2, *core})), "tumour core": core}
        sequences = ("t1n", "t1c", "t2w", "t2f") if joint == "-" else ("t1", "t1ce", "t2", "flair")
        for number, sequence in enumerate(sequences):
            image = gray(10 * seed + number, (4, 32, 32)).astype(np.int16) + 1
            nifti(root / visit / f"{visit}{joint}{sequence}.nii.gz", image)
            cases[f"{visit}_{visit}{joint}{sequence}"] = Expected(
                "MR", by_id(label_map), patient, {i: names[i] for i in labels}, regions
            )
    return Release(cases)


def camus(root: Path) -> Release:
    cases = {}
    for number in (1, 2):
        patient = f"patient{number:04d}"
        folder = root / "database_nifti" / patient
        for view in ("2CH", "4CH"):
            labels = ids(1, 2, 3, seed=number, shape=(5, 32, 24))
            stem = f"{patient}_{view}"
            nifti(folder / f"{stem}_half_sequence.nii.gz", gray(number, (5, 32, 24)))
            nifti(folder / f"{stem}_half_sequence_gt.nii.gz", labels)
            nifti(folder / f"{stem}_ED.nii.gz", gray(number, (1, 32, 24)))
            nifti(folder / f"{stem}_ED_gt.nii.gz", labels[:1])
            cases[f"database_nifti_{patient}_{stem}_half_sequence"] = Expected(
                "ultrasound",
                by_id(labels),
                patient,
                {1: "left ventricle", 2: "myocardium", 3: "left atrium"},
                video=True,
            )
        (folder / "Info_2CH.cfg").write_text("ED: 1\n")
    return Release(cases)


def flare22(root: Path) -> Release:
    cases = {}
    for number in range(1, 6):
        shape = (12, 32, 32)
        labels = np.zeros(shape, np.uint8)
        labels[:, 2:20, 2:14] = 1  # 2592 voxels, 216 in each slice
        labels[:, 22:30, 2:30] = 12  # goes by its id
        labels[2:6, 4:12, 20:28] = 9  # 256 voxels: too few
        nifti(root / f"images/FLARE22_Tr_{number:04d}_0000.nii.gz", hounsfield(number, shape))
        nifti(root / f"labels/FLARE22_Tr_{number:04d}.nii.gz", labels)
        cases[f"FLARE22_Tr_{number:04d}_0000"] = Expected(
            "CT", {1: labels == 1}, str(number), {1: "liver"}
        )
    return Release(cases)


def kits(root: Path) -> Release:
    """Stored as the release does: the first axis of the file runs from head to feet."""
    cases = {}
    affine = np.array([[0, 0, -0.8, 10.0], [0, -0.8, 0, 20.0], [-3.0, 0, 0, 30.0], [0, 0, 0, 1.0]])
    for number, label_file in ((0, "segmentation"), (1, "aggregated_MAJ_seg")):
        axial = ids(1, 2, 3, seed=number, shape=(6, 32, 28))  # (z, y, x), z towards the head
        image = hounsfield(number, axial.shape)
        folder = root / f"case_{number:05d}"
        # indices in the file: from the head down, to the back, to the left
        nifti(folder / "imaging.nii.gz", image[::-1].T, affine)
        nifti(folder / f"{label_file}.nii.gz", axial[::-1].T, affine)
        cases[f"case_{number:05d}_imaging"] = Expected(
            "CT",
            by_id(axial),
            str(number),
            {1: "kidney", 2: "tumour", 3: "cyst"},
            {"kidney with lesions": (1, 2, 3)},
            image=image,
        )
    nifti(root / "case_00001/aggregated_AND_seg.nii.gz", np.zeros((28, 32, 6), np.uint8), affine)
    return Release(cases)


def lits(root: Path) -> Release:
    cases = {}
    for number, folder in ((0, "Training Batch 1"), (28, "Training Batch 2")):
        labels = ids(1, seed=number)
        labels[1:3, 3:6, 2:5] = 2
        labels[3:, 3:5, 20:23] = 2
        nifti(root / folder / f"volume-{number}.nii", hounsfield(number))
        nifti(root / folder / f"segmentation-{number}.nii", labels)
        large, small = labels == 2, labels == 2
        large[3], small[1:3] = False, False
        cases[f"{folder.replace(' ', '-')}_volume-{number}"] = Expected(
            "CT",
            {1: labels == 1, 513: large, 514: small},
            str(number),
            {1: "liver", 513: "tumour", 514: "tumour"},
        )
    return Release(cases)


def msd(root: Path) -> Release:
    """Two tasks side by side: CT, and MR with two sequences in one 4-D file."""
    cases = {}
    spleen, prostate = root / "Task09_Spleen", root / "Task05_Prostate"
    for number in (10, 12):
        labels = ids(1, seed=number)
        nifti(spleen / f"imagesTr/spleen_{number}.nii.gz", hounsfield(number))
        nifti(spleen / f"labelsTr/spleen_{number}.nii.gz", labels)
        (spleen / f"imagesTr/._spleen_{number}.nii.gz").write_bytes(b"\0\5\26\7")
        cases[f"spleen_{number}"] = Expected("CT", by_id(labels), f"s{number}", {1: "spleen"})
    nifti(spleen / "imagesTs/spleen_1.nii.gz", hounsfield(1))
    for number in (0, 1):
        labels = ids(1, 2, seed=number)
        both = gray(number, (2, 4, 32, 32)).astype(np.float32) + 1
        nifti(prostate / f"imagesTr/prostate_{number:02d}.nii.gz", both)
        nifti(prostate / f"labelsTr/prostate_{number:02d}.nii.gz", labels)
        for channel, sequence in enumerate(("T2", "ADC")):
            cases[f"{sequence}_prostate_{number:02d}"] = Expected(
                "MR", by_id(labels), f"p{number}", {1: "PZ", 2: "TZ"}, image=both[channel]
            )
    for folder, modality, names in (
        (spleen, {"0": "CT"}, {"0": "background", "1": "spleen"}),
        (prostate, {"0": "T2", "1": "ADC"}, {"0": "background", "1": "PZ", "2": "TZ"}),
    ):
        about = {"name": folder.name, "modality": modality, "labels": names}
        (folder / "dataset.json").write_text(json.dumps(about))
    return Release(cases)


def promise12(root: Path) -> Release:
    import SimpleITK

    cases = {}
    for number in (0, 49):
        labels = ids(1, seed=number)
        folder = root / f"TrainingData_Part{1 + number // 25}"
        folder.mkdir(parents=True)
        for stem, array in (
            (f"Case{number:02d}", gray(number, labels.shape).astype(np.int16)),
            (f"Case{number:02d}_segmentation", labels),
        ):
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing((0.6, 0.6, 3.6))
            SimpleITK.WriteImage(image, folder / f"{stem}.mhd")
        cases[f"{folder.name}_Case{number:02d}"] = Expected(
            "MR", by_id(labels), str(number), {1: "prostate"}
        )
    return Release(cases)


def totalsegmentator(root: Path) -> Release:
    cases = {}
    for number, image_file, modality in ((0, "ct", "CT"), (5, "mri", "MR")):
        folder = root / f"s{number:04d}"
        nifti(folder / f"{image_file}.nii.gz", hounsfield(number) + 200)
        masks = {}
        for label, structure in enumerate(("aorta", "liver", "spleen"), start=1):
            mask = ids(1, seed=number + label) > 0
            mask[:, :, : 10 * (label - 1)] = False
            mask[:, :, 10 * label :] = False
            if structure == "spleen" and number:
                mask[:] = False  # the files are there in every case, empty where nothing is seen
            nifti(folder / f"segmentations/{structure}.nii.gz", mask.astype(np.uint8))
            if mask.any():
                masks[label] = mask
        names = {1: "aorta", 2: "liver", 3: "spleen"}
        cases[f"s{number:04d}_{image_file}"] = Expected(
            modality, masks, str(number), {i: names[i] for i in masks}
        )
    return Release(cases)
