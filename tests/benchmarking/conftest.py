"""A small benchmark: data with all the awkward cases, and a tiny model whose answers vary."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import synthetic
from tiny_model import write_model


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("weights") / "tiny.pt")


@pytest.fixture(scope="session")
def other_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("weights") / "other.pt", seed=5)


def write_mixed(folder: Path) -> Path:
    """Volumes, an object of one slice, images, videos, one of them with a single frame."""
    for i in range(2):
        synthetic.write_npz(folder / f"ct{i}.npz", (6, 40, 44), (1, 2), modality="CT", seed=i)
    imgs, gts = synthetic.make_volume((4, 32, 36), (7,), seed=4)
    gts[:1] = 0
    gts[2:] = 0  # one slice is left
    gts[3, 2:5, 2:6] = 9  # an object that is small and lies elsewhere
    np.savez_compressed(
        folder / "thin.npz", imgs=imgs, gts=gts, spacing=np.array([0.7, 0.9, 4.0]), modality="CT"
    )
    for i in range(2):
        spacing = (0.3, 0.2, 1.0)
        synthetic.write_npz(
            folder / f"skin{i}.npz",
            (1, 40, 30),
            (1,),
            colour=True,
            spacing_xyz=spacing,
            modality="dermoscopy",
            seed=10 + i,
        )
    synthetic.write_npz(
        folder / "clip.npz", (4, 36, 36), (1,), modality="endoscopy", video=True, seed=20
    )
    synthetic.write_npz(
        folder / "still.npz", (1, 36, 36), (1,), modality="endoscopy", video=True, seed=21
    )
    return folder


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixed(tmp_path_factory.mktemp("data") / "mixed")


@pytest.fixture
def volumes(tmp_path: Path) -> Callable[[int], Path]:
    """``volumes(3)`` writes so many small cases into ``data``."""

    def write(count: int) -> Path:
        for i in range(count):
            synthetic.write_npz(
                tmp_path / "data" / f"case{i}.npz", (3, 32, 32), (1,), modality="CT", seed=i
            )
        return tmp_path / "data"

    return write
