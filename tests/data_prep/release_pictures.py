"""Releases of pictures and frames, written with literal file names."""

from pathlib import Path

import numpy as np
from release import Expected, Release, blob, by_id, colour, gray, ids, picture


def aroi(root: Path) -> Release:
    names = {1: "ILM to IPL/INL", 2: "IPL/INL to RPE", 3: "RPE to BM", 4: "under BM", 6: "SRF"}
    cases = {}
    for patient in (1, 2):
        folder = root / "24 patient" / f"patient{patient}"
        for number in (10, 12):
            labels = ids(1, 2, 3, 4, 6, seed=number, shape=(32, 40))
            stem = f"patient{patient}_raw{number:04d}"
            picture(folder / "raw/labeled" / f"{stem}.png", gray(number, (32, 40)))
            picture(folder / "mask/number" / f"{stem}.png", labels)
            picture(folder / "mask/color" / f"{stem}.png", np.stack([labels * 30] * 3, -1))
            cases[f"24-patient_patient{patient}_raw_{stem}"] = Expected(
                "OCT", by_id(labels), f"patient{patient}", names
            )
        picture(folder / "raw/unlabeled" / f"patient{patient}_raw0011.png", gray(1, (32, 40)))
    return Release(cases)


def busi(root: Path) -> Release:
    lesions = {1: "lesion", 2: "lesion", 3: "lesion"}
    cases = {}
    for folder, number, masks in (
        ("benign", 1, [blob(4, 4)]),
        ("benign", 100, [blob(2, 2), blob(20, 20, 9), blob(20, 3, 4)]),
        ("malignant", 1, [blob(9, 5, 11)]),
    ):
        stem = f"{folder} ({number})"
        picture(root / folder / f"{stem}.png", colour(number))
        for at, mask in enumerate(masks):
            ending = f"_mask_{at}" if at else "_mask"
            picture(root / folder / f"{stem}{ending}.png", mask)
        labels = {at + 1: mask[None] for at, mask in enumerate(masks)}
        cases[f"{folder}_{folder}-{number}-"] = Expected(
            "ultrasound", labels, stem, {i: lesions[i] for i in labels}, colour=True
        )
    picture(root / "normal/normal (1).png", colour(3))
    picture(root / "normal/normal (1)_mask.png", np.zeros((32, 32), bool))
    return Release(cases, {"normal_normal-1-": "empty"})


def cvc_clinicdb(root: Path) -> Release:
    cases = {}
    for number in (1, 26, 612):
        mask = blob(number % 7, number % 11, 9)
        picture(root / "PNG/Original" / f"{number}.png", colour(number))
        picture(
            root / "PNG/Ground Truth" / f"{number}.png", np.stack([mask * np.uint8(255)] * 3, -1)
        )
        picture(root / "TIF/Original" / f"{number}.tif", colour(number))
        picture(root / "TIF/Ground Truth" / f"{number}.tif", mask)
        cases[f"PNG_Original_{number}"] = Expected(
            "endoscopy", {1: mask[None]}, str(number), {1: "polyp"}, colour=True
        )
    (root / "metadata.csv").write_text("frame_id,sequence_id\n")
    return Release(cases)


def drive(root: Path) -> Release:
    cases = {}
    for number, folder in ((21, "training"), (1, "test")):
        part = root / folder
        stem = f"{number:02d}_{folder}"
        vessels = blob(number % 10, 3, 12)
        picture(part / "images" / f"{stem}.tif", colour(number))
        picture(part / "1st_manual" / f"{number:02d}_manual1.gif", vessels)
        picture(part / "mask" / f"{stem}_mask.gif", np.ones((32, 32), bool))
        cases[f"{folder}_{stem}"] = Expected(
            "fundus", {1: vessels[None]}, str(number), {1: "vessels"}, colour=True
        )
    return Release(cases)


def dsb2018(root: Path) -> Release:
    cases = {}
    for case in ("00071198d059", "003cee89357d"):
        folder = root / "stage1_train" / case
        nuclei = {"0a1b": blob(1, 1), "7f02": blob(20, 4, 3), "c9d3": blob(10, 20, 5)}
        picture(folder / "images" / f"{case}.png", np.dstack([colour(1), gray(2) | 255]))
        for name, mask in nuclei.items():
            picture(folder / "masks" / f"{name}.png", mask)
        labels = {number: mask[None] for number, mask in enumerate(nuclei.values(), start=1)}
        cases[f"stage1_train_{case}"] = Expected("microscopy", labels, case, colour=True)
    return Release(cases)


def isic(root: Path) -> Release:
    cases = {}
    inputs = root / "ISIC2018_Task1-2_Training_Input"
    truth = root / "ISIC2018_Task1_Training_GroundTruth"
    for number in (0, 13, 16072):
        lesion = blob(number % 9, 5, 14)
        stem = f"ISIC_{number:07d}"
        picture(inputs / f"{stem}.jpg", colour(number))
        picture(inputs / f"{stem}_superpixels.png", colour(number + 1))
        picture(truth / f"{stem}_segmentation.png", lesion)
        cases[f"ISIC2018_Task1-2_Training_Input_{stem}"] = Expected(
            "dermoscopy", {1: lesion[None]}, stem, {1: "lesion"}, colour=True
        )
    (inputs / "LICENSE.txt").write_text("CC BY-NC\n")
    return Release(cases)


def kvasir_seg(root: Path) -> Release:
    cases = {}
    for seed, stem in enumerate(("cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4")):
        polyp = blob(3 + seed, 4, 16)
        picture(root / "images" / f"{stem}.jpg", colour(seed))
        picture(root / "masks" / f"{stem}.jpg", np.stack([polyp * np.uint8(255)] * 3, -1))
        cases[stem] = Expected("endoscopy", {1: polyp[None]}, stem, {1: "polyp"}, colour=True)
    (root / "kavsir_bboxes.json").write_text("{}")
    return Release(cases)


def montgomery(root: Path) -> Release:
    cases = {}
    top = root / "MontgomerySet"
    for number, finding in ((1, 0), (104, 1)):
        name = f"MCUCXR_{number:04d}_{finding}"
        left, right = blob(4, 18, 10), blob(5, 2, 9)
        picture(top / "CXR_png" / f"{name}.png", gray(number))
        picture(top / "ManualMask/leftMask" / f"{name}.png", left)
        picture(top / "ManualMask/rightMask" / f"{name}.png", right)
        cases[f"MontgomerySet_CXR_png_{name}"] = Expected(
            "xray", {1: left[None], 2: right[None]}, name, {1: "leftMask", 2: "rightMask"}
        )
        (top / "ClinicalReadings").mkdir(exist_ok=True)
        (top / "ClinicalReadings" / f"{name}.txt").write_text("normal\n")
    return Release(cases)


def refuge(root: Path) -> Release:
    cases = {}
    places = (
        (
            "Training400/Glaucoma/g0001.jpg",
            "Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001.bmp",
        ),
        (
            "Training400/Non-Glaucoma/n0001.jpg",
            "Annotation-Training400/Disc_Cup_Masks/Non-Glaucoma/n0001.bmp",
        ),
        ("REFUGE-Validation400/V0001.jpg", "REFUGE-Validation400-GT/Disc_Cup_Masks/V0001.bmp"),
        ("REFUGE-Test400/T0001.jpg", "REFUGE-Test-GT/Disc_Cup_Masks/T0001.bmp"),
    )
    for seed, (image, label) in enumerate(places):
        disc, cup = blob(3 + seed, 4, 20), blob(8 + seed, 9, 7)
        values = np.full((32, 32), 255, np.uint8)
        values[disc], values[cup] = 128, 0
        picture(root / image, colour(seed))
        picture(root / label, values)
        cases[image.removesuffix(".jpg").replace("/", "_")] = Expected(
            "fundus",
            {1: (disc & ~cup)[None], 2: cup[None]},
            image,
            {1: "rim", 2: "cup"},
            {"disc": (1, 2)},
            colour=True,
        )
    return Release(cases)


def sun_seg(root: Path) -> Release:
    cases = {}
    for clip, start in (("case1_1", 1), ("case1_3", 31), ("case12", 8)):
        folder = root / "TrainDataset"
        stem = "case_M_20181001100941_0U62363100354631_1_001_002-1_a13_ayy_image"
        masks = [blob(number, 2 * number, 8) for number in range(4)]
        for number, mask in enumerate(masks):
            name = f"{stem}{start + number:04d}"
            picture(folder / "Frame" / clip / f"{name}.jpg", colour(number))
            picture(folder / "GT" / clip / f"{name}.png", mask)
            picture(folder / "Edge" / clip / f"{name}.png", ~mask)
        cases[clip] = Expected(
            "endoscopy",
            {1: np.stack(masks)},
            clip.split("_")[0],
            {1: "polyp"},
            video=True,
            colour=True,
        )
    return Release(cases)
