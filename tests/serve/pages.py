"""Files that tests of the page open."""

import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from gradio_client import Client, handle_file
from numpy.typing import NDArray

from medsam2_ft.io.video_write import write_mp4

INTENSITIES = ("auto", "auto", None, None)
"""Modality, window, level and width as the page offers them at first."""


def nifti(
    path: Path, shape_xyz: tuple[int, int, int] = (40, 32, 12), seed: int = 0, turned: bool = False
) -> Path:
    """An oblique CT-like volume: one bright ellipsoid.

    Columns grow to the patient's left and rows to the back, as a screen shows them; where the
    first two axes are turned (``turned``), the page shows it flipped.
    """
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape_xyz], indexing="ij"))
    values = np.where((grid**2).sum(0) < 0.4, 120, -80) + np.random.default_rng(seed).integers(
        -20, 20, shape_xyz
    )
    angle = 0.2
    affine = np.eye(4)
    turn = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]]
    affine[:3, :3] = np.array(turn) * [-0.8, -0.9, 5.0] * ([-1, -1, 1] if turned else 1)
    affine[:3, 3] = [11, -7, 3]
    nibabel.Nifti1Image(values.astype(np.int16), affine).to_filename(path)
    return path


def video(path: Path, count: int = 12, side: int = 48) -> NDArray[np.uint8]:
    """A bright square that moves to the right; returns the frames."""
    frames = np.full((count, side, side, 3), 40, np.uint8)
    for number in range(count):
        frames[number, 16:32, 6 + number : 22 + number] = (200, 180, 90)
    write_mp4(path, frames, Fraction(12))
    return frames


def dicom_zip(path: Path, source: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(source.glob("*.dcm")):
            archive.write(file, file.name)
    return path


class User:
    """Somebody who uses the page from Python."""

    def __init__(self, port: int, folder: Path, **options: Any) -> None:
        self.client = Client(
            f"http://127.0.0.1:{port}/ui/",
            verbose=False,
            analytics_enabled=False,
            download_files=str(folder),
            **options,
        )

    def open(self, kind: str, path: Path, *intensities: Any, rate: float = 0) -> Any:
        chosen = intensities or INTENSITIES
        return self.client.predict(
            handle_file(str(path)), None, *chosen, rate, api_name=f"/{kind}_open"
        )

    def __call__(self, name: str, *values: Any) -> Any:
        return self.client.predict(*values, api_name=f"/{name}")

    def save(self, kind: str, format: str) -> Path:
        return Path(self(f"{kind}_save", format)[0]["value"])
