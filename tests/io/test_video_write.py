"""MP4 files that we write, decoded by PyAV."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.video import frame_rate, read_video
from medsam2_ft.io.video_write import write_mp4


def frames(count: int = 6, height: int = 47, width: int = 61) -> NDArray[np.uint8]:
    clip = np.zeros((count, height, width, 3), np.uint8)
    for t in range(count):
        clip[t, 10:30, 5 + 5 * t : 25 + 5 * t] = (200, 40, 90)
    return clip


@pytest.mark.parametrize("rate", [Fraction(10), Fraction(30000, 1001), Fraction(1, 2)])
def test_frames_size_and_rate(tmp_path: Path, rate: Fraction) -> None:
    clip = frames()
    assert write_mp4(tmp_path / "new" / "a.mp4", iter(clip), rate) == 6
    with av.open(str(tmp_path / "new" / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (62, 48)
        assert stream.average_rate == rate
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(found) == 6
    for shown, drawn in zip(found, clip, strict=True):
        assert np.abs(shown[:47, :61].astype(int) - drawn).mean() < 6
    # chroma is stored at half the size: away from edges
    assert np.abs(found[0][15:25, 10:20].astype(int) - (200, 40, 90)).max() < 16
    assert frame_rate(tmp_path / "new" / "a.mp4") == rate
    assert read_video(tmp_path / "new" / "a.mp4").array.shape == (6, 48, 62, 3)


def test_nothing_half_written(tmp_path: Path) -> None:
    clip = frames()
    with pytest.raises(ValueError, match="at least one"):
        write_mp4(tmp_path / "a.mp4", iter(clip[:0]), Fraction(10))
    with pytest.raises(ValueError, match="frame 2 has another size"):
        write_mp4(tmp_path / "a.mp4", iter([clip[0], clip[1][:20]]), Fraction(10))
    (tmp_path / "file").touch()
    with pytest.raises(UserError):
        write_mp4(tmp_path / "file" / "a.mp4", iter(clip), Fraction(10))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
