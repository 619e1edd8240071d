"""Labels of pictures as pictures, read by Pillow."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_labels, write_labels
from medsam2_ft.types import LabelVolume


@pytest.mark.parametrize(("largest", "mode"), [(254, "L"), (255, "I;16"), (65534, "I;16")])
def test_ids_are_gray_values(tmp_path: Path, largest: int, mode: str) -> None:
    labels = np.zeros((1, 5, 7), np.uint16)
    labels[0, 1:3, 2:6] = 3
    labels[0, 4, 0] = largest
    write_labels(tmp_path / "a.png", LabelVolume((labels,)))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == mode
        assert np.array_equal(np.asarray(picture), labels[0])
    assert np.array_equal(read_labels(tmp_path / "a.png").maps[0], labels)


def test_one_slice_and_one_map(tmp_path: Path) -> None:
    flat, deep = np.ones((1, 5, 7), np.uint8), np.ones((2, 5, 7), np.uint8)
    for maps in ((deep,), (flat, flat + 1)):
        with pytest.raises(UserError, match="PNG holds one slice without overlaps"):
            write_labels(tmp_path / "a.png", LabelVolume(maps))
    assert not list(tmp_path.iterdir())
