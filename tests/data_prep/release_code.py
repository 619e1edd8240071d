"""Releases that need more than patterns: npz, DICOM, MATLAB, raw films, property lists."""

import plistlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray
from release import Expected, Release, blob, by_id, gray, ids, picture


def cvpr24(root: Path) -> Release:
    cases = {}
    for name, modality, shape in (
        ("3DBox_CT_0001", "CT", (4, 32, 32)),
        ("2DBox_Dermoscopy_0001", "dermoscopy", (32, 32)),
        ("3DBox_MR_0002", "MR", (4, 32, 32)),
    ):
        labels = ids(1, 3, shape=shape)
        image = gray(1, shape if len(shape) == 3 else (*shape, 3))
        (root / "imgs").mkdir(parents=True, exist_ok=True)
        (root / "gts").mkdir(exist_ok=True)
        spacing = {"spacing": np.array([0.7, 0.7, 2.0])} if len(shape) == 3 else {}
        boxes = np.array([[2, 2, 8, 8], [17, 2, 25, 8]], np.float32)
        np.savez_compressed(root / "imgs" / f"{name}.npz", imgs=image, boxes=boxes, **spacing)
        np.savez_compressed(root / "gts" / f"{name}.npz", gts=labels)
        cases[name] = Expected(modality, by_id(labels), name, colour=len(shape) == 2)
    return Release(cases)


def medsam2_recist(root: Path) -> Release:
    cases = {}
    root.mkdir(parents=True, exist_ok=True)
    for stem, patient in (
        ("CT_Lesion_000001_02_01_008-023", "1"),
        ("CT_Lesion_000001_03_01_040-052", "1"),
        ("CT_Lesion_000002_03_01_035-047", "2"),
    ):
        labels = ids(1, seed=len(cases))
        spacing = np.array([0.8, 0.8, 5.0])
        np.savez_compressed(
            root / f"{stem}.npz", imgs=gray(len(cases), (4, 32, 32)), gts=labels, spacing=spacing
        )
        cases[stem] = Expected("CT", by_id(labels), patient, {1: "lesion"})
    return Release(cases)


def oct_duke(root: Path) -> Release:
    cases = {}
    folder = root / "2015_BOE_Chiu"
    folder.mkdir(parents=True)
    for subject in (1, 2):
        images = gray(subject, (32, 40, 6)).astype(np.float64)
        fluid = np.full((32, 40, 6), np.nan)  # B-scans that nobody annotated
        for at in (1, 3):
            fluid[:, :, at] = 0
            fluid[4:9, 5 : 15 + at, at] = 2  # numbers of the fluid regions
            cases[f"Subject_{subject:02d}_{at + 1:02d}"] = Expected(
                "OCT",
                {1: np.nan_to_num(fluid[None, :, :, at]) > 0},
                str(subject),
                {1: "fluid"},
                image=images[None, :, :, at],
            )
        fluid[:, :, 4] = 0  # annotated, without fluid
        scipy.io.savemat(
            folder / f"Subject_{subject:02d}.mat",
            {"images": images, "manualFluid1": fluid, "manualFluid2": fluid[::-1]},
        )
    return Release(cases)


def jsrt(root: Path) -> Release:
    cases = {}
    names = ("left lung", "right lung", "heart", "left clavicle", "right clavicle")
    (root / "All247images").mkdir(parents=True)
    for number, (case, fold) in enumerate((("JPCLN001", "fold1"), ("JPCNN002", "fold2"))):
        masks = {label: blob(4 * label, 5 * number + 3 * label, 9, 1024) for label in range(1, 6)}
        for label, name in enumerate(names, start=1):
            picture(root / "scratch" / fold / "masks" / name / f"{case}.gif", masks[label])
        film = np.full((2048, 2048), 3000, ">u2")
        film[200:800, 100 + number : 900] = 500  # bright on the film viewer
        film.tofile(root / "All247images" / f"{case}.IMG")
        halved = 4095 - film.astype(np.float64).reshape(1024, 2, 1024, 2).mean((1, 3))
        cases[case] = Expected(
            "xray",
            {label: mask[None] for label, mask in masks.items()},
            case,
            dict(enumerate(names, start=1)),
            image=halved[None],
        )
    return Release(cases)


def cbis_ddsm(root: Path) -> Release:
    """The release calls the view the patient, and so does the folder."""
    cases = {}
    view = "Mass-Training_P_00001_LEFT_CC"
    masks = [blob(3, 4, 8), blob(18, 20, 5)]
    pixels = gray(1).astype(np.uint16) + 500
    dicom(root / view / "07-20-2016/1.000000-full/1-1.dcm", pixels, view)
    for number, mask in enumerate(masks, start=1):
        finding = f"{view}_{number}"
        folder = root / finding / "07-21-2016/1.000000-ROI"
        crop_first = number == 1  # the release has both orders
        shown = np.where(mask, 255, 0).astype(np.uint8)
        dicom(folder / f"1-{1 + crop_first}.dcm", shown, finding)
        dicom(folder / f"1-{2 - crop_first}.dcm", gray(5, (12, 12)), finding)
    labels = {number: mask[None] for number, mask in enumerate(masks, start=1)}
    cases[view] = Expected("mammography", labels, "P_00001", image=pixels[None])
    other = "Calc-Test_P_00001_LEFT_MLO"
    dicom(root / other / "study/series/1-1.dcm", pixels[::-1], other)
    shown = np.where(masks[0], 255, 0).astype(np.uint8)
    dicom(root / f"{other}_1/study/series/1-1.dcm", shown, f"{other}_1")
    image = pixels[None, ::-1]
    cases[other] = Expected("mammography", {1: masks[0][None]}, "P_00001", image=image)
    odd = "Calc-Training_P_00038_RIGHT_CC"  # the release has masks of another size
    dicom(root / odd / "study/series/1-1.dcm", pixels, odd)
    dicom(root / f"{odd}_1/study/series/1-1.dcm", np.eye(20, dtype=np.uint8), f"{odd}_1")
    return Release(cases, {odd: "no label"}, hashed=True)


def inbreast(root: Path) -> Release:
    cases = {}
    square = [(4.0, 6.0), (15.0, 6.0), (15.0, 20.0), (4.0, 20.0)]
    regions = [
        ("Mass", square),
        ("Calcification", [(3.0, 3.0)]),
        ("Mass", [(20, 2), (28, 2), (28, 9)]),
    ]
    (root / "AllXML").mkdir(parents=True)
    for number, patient in (("20586908", "6c613a14b80a8591"), ("22580192", "8d0b9620c53c0268")):
        pixels = gray(int(number) % 97).astype(np.uint16) * 10
        dicom(root / "AllDICOMs" / f"{number}_{patient}_MG_R_CC_ANON.dcm", pixels, "removed")
        found = [
            {"Name": name, "Point_px": [f"({x:f}, {y:f})" for x, y in points]}
            for name, points in regions
        ]
        content = {"Images": [{"ImageIndex": 0, "NumberOfROIs": len(found), "ROIs": found}]}
        (root / "AllXML" / f"{number}.xml").write_bytes(plistlib.dumps(content))
        first = np.zeros((1, 32, 32), bool)
        first[0, 6:21, 4:16] = True  # vertices are pixels of the region
        second = np.zeros((1, 32, 32), bool)
        for y in range(2, 10):
            second[0, y, round(20 + 8 * (y - 2) / 7) : 29] = True
        cases[f"AllDICOMs_{number}_{patient}_MG_R_CC_ANON"] = Expected(
            "mammography", {1: first, 2: second}, patient, image=pixels[None]
        )
    normal = "22613650_c6f4b1b3d5b2a2ff_MG_L_ML_ANON"
    dicom(root / f"AllDICOMs/{normal}.dcm", gray().astype(np.uint16), "removed")
    return Release(cases, {f"AllDICOMs_{normal}": "no label"})


def dicom(path: Path, pixels: NDArray[Any], patient: str = "") -> None:
    """Writes a mammogram as DICOM."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation as Storage
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = Storage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.SeriesInstanceUID, image.StudyInstanceUID = generate_uid(), generate_uid()
    image.Modality, image.PatientID = "MG", patient
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated = image.BitsStored = 8 * pixels.dtype.itemsize
    image.HighBit, image.PixelRepresentation = image.BitsStored - 1, 0
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.PixelData = np.ascontiguousarray(pixels).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
