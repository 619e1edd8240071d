"""Small generated folders of NIfTI images and labels, written with nibabel."""

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

AFFINE = np.array([[-0.8, 0, 0, 12.0], [0, -0.9, 0, -7.5], [0, 0, 2.5, 30.0], [0, 0, 0, 1.0]])


def write_nifti(path: Path, array_zyx: NDArray[Any], affine: NDArray[Any] = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array_zyx.T), affine), path)
    return path


def ct_like(shape: tuple[int, int, int] = (4, 20, 24), seed: int = 0) -> NDArray[np.int16]:
    """Hounsfield units with a padding of -3024, as scanners write outside the field of view."""
    array = np.random.default_rng(seed).integers(-200, 300, shape).astype(np.int16)
    array[:, :2] = -3024
    return array


def box_labels(shape: tuple[int, int, int] = (4, 20, 24)) -> NDArray[np.uint8]:
    labels = np.zeros(shape, np.uint8)
    labels[1:3, 5:12, 4:10] = 1
    labels[1:4, 5:12, 12:20] = 2
    return labels


def write_set(
    root: Path, names: list[str], shape: tuple[int, int, int] = (4, 20, 24)
) -> tuple[Path, Path]:
    """Writes ``images/NAME.nii.gz`` and ``labels/NAME.nii.gz``; returns the two folders."""
    for seed, name in enumerate(names):
        write_nifti(root / "images" / f"{name}.nii.gz", ct_like(shape, seed))
        write_nifti(root / "labels" / f"{name}.nii.gz", box_labels(shape))
    return root / "images", root / "labels"


def read_manifest(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return content


def read_splits(out: Path) -> dict[str, list[str]]:
    content: dict[str, list[str]] = json.loads((out / "splits.json").read_text())
    return content


def snapshot(out: Path) -> dict[str, tuple[int, str]]:
    """Modification time and sha256 of every file below ``out``."""
    return {
        str(path.relative_to(out)): (path.stat().st_mtime_ns, sha256(path))
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
