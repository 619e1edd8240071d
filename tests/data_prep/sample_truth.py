"""What the real sample holds, computed from its files by nibabel, SimpleITK, numpy and PIL."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK
from numpy.typing import NDArray
from PIL import Image

Volumes = Mapping[int, float]
"""mm3 (pixels where there is no geometry) by label id."""


def counted(
    values: NDArray[Any], unit: float = 1.0, background: tuple[float, ...] = (0,)
) -> Volumes:
    found, numbers = np.unique(values, return_counts=True)
    pairs = zip(found, numbers, strict=True)
    return {int(v): float(n * unit) for v, n in pairs if v not in background}


def nifti(path: Path) -> Volumes:
    image = nib.load(path)
    unit = abs(np.linalg.det(image.affine[:3, :3]))
    return counted(np.asarray(image.dataobj), unit)


def channels(path: Path) -> Volumes:
    image = nib.load(path)
    layers = np.asarray(image.dataobj)
    unit = abs(np.linalg.det(image.affine[:3, :3]))
    return {i + 1: float(layers[..., i].sum() * unit) for i in range(layers.shape[3])}


def itk(path: Path) -> Volumes:
    image = SimpleITK.ReadImage(str(path))
    return counted(SimpleITK.GetArrayFromImage(image), float(np.prod(image.GetSpacing())))


def layers(path: Path) -> Volumes:
    """A .seg.nrrd of two layers, of which the second holds the eighth segment as 1."""
    image = SimpleITK.ReadImage(str(path))
    array = SimpleITK.GetArrayFromImage(image)
    unit = float(np.prod(image.GetSpacing()))
    return {**counted(array[..., 0], unit), 8: float((array[..., 1] == 1).sum() * unit)}


def npz(path: Path) -> Volumes:
    with np.load(path, allow_pickle=False) as content:
        return counted(content["gts"], float(np.prod(content["spacing"])))


def pixels(path: Path) -> NDArray[Any]:
    return np.asarray(Image.open(path))


def above(threshold: int, *paths: Path) -> Volumes:
    """Pixels of a two-valued mask, of JPEG in luminance."""
    gray = [np.asarray(Image.open(path).convert("L")) for path in paths]
    return {1: float(sum((picture > threshold).sum() for picture in gray))}


def colours(path: Path, legend: Mapping[tuple[int, int, int], int]) -> Volumes:
    picture = pixels(path)
    return {i: float((picture == colour).all(-1).sum()) for colour, i in legend.items()}


def renumbered(volumes: Volumes) -> Volumes:
    """Labels 1, 2, ... in the order of their values."""
    return dict(enumerate((volumes[value] for value in sorted(volumes)), start=1))


def parts(folder: Path) -> Volumes:
    files = sorted(folder.glob("*.png"), key=lambda path: path.name)
    return {i: float((pixels(f) > 0).sum()) for i, f in enumerate(files, start=1)}


RIM_CUP = {(255, 255, 0): 1, (255, 0, 0): 2}
GREEN = {(0, 255, 0): 1}


def truth(data: Path) -> dict[str, dict[str, Volumes]]:
    """Volumes by data set and case; every pair of the sample is listed."""
    sections: tuple[Callable[[Path], dict[str, dict[str, Volumes]]], ...] = (
        _ct, _mr, _sarcoma, _pictures, _microscopy
    )  # fmt: skip
    return {name: cases for section in sections for name, cases in section(data).items()}


def _ct(data: Path) -> dict[str, dict[str, Volumes]]:
    ct, chest = data / "CT", data / "CT/slicerio_chest"
    return {
        "ct_recist": {p.stem: npz(p) for p in (ct / "medsam2_recist_npz").glob("*.npz")},
        "ct_chest": {
            "CTChest4": itk(chest / "Segmentation.seg.nrrd"),
            "overlap_CTChest4": layers(chest / "SegmentationOverlapping.seg.nrrd"),
        },
        "ct_spleen": {
            "sub-spleen2": nifti(ct / "ivadomed_spleen/sub-spleen2_ct_seg-manual.nii.gz")
        },
        "totalsegmentator": {
            "CT_totalsegmentator_example_ct_sm": nifti(ct / "totalsegmentator/example_seg.nii.gz"),
            "MR_totalsegmentator_example_mr_sm": nifti(
                data / "MR/totalsegmentator/example_seg_mr.nii.gz"
            ),
        },
    }


def _mr(data: Path) -> dict[str, dict[str, Volumes]]:
    mr = data / "MR"
    tumour = nifti(mr / "brats2015_deepmedic/brats_2013_pat0006_1/OTMultiClass.nii.gz")
    return {
        "brain_tumour": {f"brats_2013_pat0006_1_{s}": tumour for s in ("Flair", "T1c")},
        "mr_examples": {n: itk(mr / f"pyradiomics/{n}_label.nrrd") for n in ("brain1", "breast1")},
        "spinal_cord": {
            "t2": nifti(mr / "sct_spinalcord/t2_seg-manual.nii.gz"),
            "levels_t2": nifti(mr / "sct_spinalcord/t2_seg-manual_labeled.nii.gz"),
        },
        "prostate": {
            p.stem: above(127, p) for p in (mr / "prostate_slices_png/masks").glob("*.png")
        },
        "prostate_ultrasound": {
            "case000025": channels(data / "ultrasound/deepreg_trus3d/labels/case000025.nii.gz")
        },
    }


def _sarcoma(data: Path) -> dict[str, dict[str, Volumes]]:
    return {"sarcoma": {name: nifti(path) for name, path in tumour_masks(data).items()}}


def tumour_masks(data: Path) -> dict[str, Path]:
    """Masks of both patients as NIfTI; the DICOM cases of the first must equal them."""
    names = {"CT": "CT_mask", "PET": "PET_mask", "MR": "MR_T1_mask"}
    return {
        f"{modality}_{patient}": data / modality / "ibsi_sts_nifti" / patient / f"{mask}.nii.gz"
        for modality, mask in names.items()
        for patient in ("STS_008", "STS_019")
    }


def _pictures(data: Path) -> dict[str, dict[str, Volumes]]:
    clip = data / "endoscopy/cholecseg8k_clip/dev"
    frames = np.stack([pixels(p)[..., 0] for p in sorted(clip.glob("*watershed_mask.png"))])
    oct_values = {p.stem: pixels(p) for p in (data / "OCT/octseg_zeiss/mask").glob("*.png")}
    ddsm = (data / "mammography/ddsm_tissue/fgt_seg_labels").glob("*.png")
    return {
        "breast_ultrasound": {
            p.stem: colours(p, GREEN) for p in (data / "ultrasound/busi/masks").glob("*.png")
        },
        "chest_xray": {n: above(127, data / f"xray/imlab_cxr/{n}-mask.png") for n in ("1", "2")},
        "isic": {
            p.stem.removesuffix("_segmentation"): above(127, p)
            for p in (data / "dermoscopy/isic2017").glob("*.png")
        },
        "kvasir_seg": {
            p.stem: above(127, p) for p in (data / "endoscopy/kvasir_seg/masks").glob("*.jpg")
        },
        "cholecystectomy": {"dev": counted(frames, background=(0, 50, 255))},
        "drive": {"21_training": above(127, data / "fundus/drive/1st_manual/21_manual1.gif")},
        "disc_and_cup": {
            p.stem: colours(p, RIM_CUP) for p in (data / "fundus/smdg_disc_cup/masks").glob("*.png")
        },
        "breast_tissue": {
            p.stem.removesuffix("_LI"): renumbered(counted(pixels(p), background=(64,)))
            for p in ddsm
        },
        "retina": {n: renumbered(counted(v, background=(240,))) for n, v in oct_values.items()},
    }


def _microscopy(data: Path) -> dict[str, dict[str, Volumes]]:
    folder = data / "microscopy"
    return {
        "dsb2018": {p.name: parts(p / "masks") for p in (folder / "dsb2018").iterdir()},
        "nuclei": {"img2d": counted(pixels(folder / "stardist/mask2d.tif"))},
    }
