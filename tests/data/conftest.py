import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

INTENSITY = json.dumps({"kind": "window", "lower": -160.0, "upper": 240.0})

MakeCase = Callable[..., Path]


def volume(
    value: int, depth: int, hw: tuple[int, int], labels: Sequence[int], *, colour: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A textured volume; every slice but the first and the last holds a square of each label."""
    rng = np.random.default_rng(value)
    shape = (depth, *hw, 3) if colour else (depth, *hw)
    image = rng.integers(0, 256, shape).astype(np.uint8)
    label_map = np.zeros((depth, *hw), np.uint16)
    for k, label in enumerate(labels):
        x = 2 + 9 * k
        label_map[1 : depth - 1, 5:12, x : x + 7] = label
    return image, label_map


@pytest.fixture
def make_case() -> MakeCase:
    """Writes a small case and returns its path."""

    def make(
        folder: Path,
        name: str,
        *,
        value: int = 0,
        depth: int = 5,
        hw: tuple[int, int] = (40, 48),
        labels: Sequence[int] = (1, 2),
        colour: bool = False,
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        image, label_map = volume(value, depth, hw, labels, colour=colour)
        path = folder / f"{name}.npz"
        np.savez(
            path,
            imgs=image,
            gts=label_map,
            modality=np.array("CT"),
            label_names=np.array(json.dumps({label: f"organ {label}" for label in labels})),
            intensity=np.array(INTENSITY),
        )
        return path

    return make


@pytest.fixture
def data_dir(tmp_path: Path, make_case: MakeCase) -> Path:
    """Three training cases (9 labelled slices) and one validation case (3)."""
    folder = tmp_path / "data"
    for k in range(3):
        make_case(folder / "train", f"case{k}", value=k)
    make_case(folder / "val", "held", value=9)
    return folder
