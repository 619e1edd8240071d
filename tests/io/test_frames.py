from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsam2_ft.errors import UserError
from medsam2_ft.io import Source, read_volume
from medsam2_ft.io.frames import find_frames, read_frames

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (12, 5, 7), np.uint8)
RGB = RNG.integers(0, 256, (12, 5, 7, 3), np.uint8)


def write(folder: Path, frames: np.ndarray, suffix: str = ".png") -> list[Path]:
    folder.mkdir(exist_ok=True)
    files = [folder / f"frame_{index}{suffix}" for index in range(len(frames))]
    for file, frame in zip(files, frames, strict=True):
        Image.fromarray(frame).save(file)
    return files


def test_natural_order_and_what_does_not_count(tmp_path: Path) -> None:
    files = write(tmp_path, GRAY)
    (tmp_path / ".hidden").touch()
    (tmp_path / "Thumbs.db").touch()
    (tmp_path / "__MACOSX").mkdir()
    assert find_frames(tmp_path) == tuple(files)  # frame_2 before frame_10
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, GRAY)
    assert volume.is_video
    assert not volume.has_geometry
    np.testing.assert_array_equal(
        read_volume(Source(tmp_path, tuple(files[3:5]), "frames")).array, GRAY[3:5]
    )


def test_folders_that_are_no_video(tmp_path: Path) -> None:
    assert find_frames(tmp_path) == ()
    write(tmp_path / "a", GRAY[:2])
    (tmp_path / "a/notes.txt").touch()
    assert find_frames(tmp_path / "a") == ()
    write(tmp_path / "b", GRAY[:2])
    (tmp_path / "b/more").mkdir()
    assert find_frames(tmp_path / "b") == ()
    with pytest.raises(UserError, match="cannot be listed"):
        find_frames(tmp_path / "gone")


@pytest.mark.parametrize("gray_first", [True, False])
def test_gray_and_colour_mix_to_colour(tmp_path: Path, gray_first: bool) -> None:
    files = write(tmp_path, RGB[:4])
    gray = 0 if gray_first else 2
    Image.fromarray(GRAY[gray]).save(files[gray])
    expected = RGB[:4].copy()
    expected[gray] = GRAY[gray][..., None]
    np.testing.assert_array_equal(read_frames(files).array, expected)


def test_one_bit_and_eight_bits_mix(tmp_path: Path) -> None:
    files = write(tmp_path, GRAY[:3])
    for one_bit in (0, 2):
        Image.fromarray(GRAY[one_bit] > 99).save(files[one_bit])
        expected = GRAY[:3].copy()
        expected[one_bit] = (GRAY[one_bit] > 99) * 255
        np.testing.assert_array_equal(read_frames(files).array, expected)
        Image.fromarray(GRAY[one_bit]).save(files[one_bit])


def test_frames_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write(tmp_path, GRAY)
    Image.fromarray(GRAY[0, :3]).save(files[7])
    with pytest.raises(UserError, match=r"frame_7\.png: 7 x 3 pixels where frame_0\.png has 7 x 5"):
        read_frames(files)
    Image.fromarray(GRAY[0].astype(np.uint16)).save(files[7])
    with pytest.raises(UserError, match=r"frame_7\.png: is uint16"):
        read_frames(files)
    stack = [Image.fromarray(plane) for plane in GRAY[:2]]
    stack[0].save(tmp_path / "pages.gif", save_all=True, append_images=stack[1:])
    with pytest.raises(UserError, match="has 2 pages"):
        read_frames([tmp_path / "pages.gif"])
    with pytest.raises(UserError, match="at least one frame"):
        read_frames([])
    monkeypatch.setenv("MEDSAM2FT_MAX_VOXELS", "100")
    with pytest.raises(UserError, match=r"12 frames: declares 420 values"):
        read_frames(files)


def test_real_frames(test_data: Path) -> None:
    files = sorted((test_data / "endoscopy/cholecseg8k_clip/dev").glob("frame_???_endo.png"))
    volume = read_frames(files)
    expected = np.stack([np.asarray(Image.open(file)) for file in files])
    np.testing.assert_array_equal(volume.array, expected)
