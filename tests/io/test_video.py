"""Videos that FFmpeg wrote here, against FFmpeg's own frames and what was drawn."""

import struct
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_volume
from medsam2_ft.io.video import read_video

FRAMES, HEIGHT, WIDTH = 12, 48, 64


def drawn(gray: bool = False) -> NDArray[np.uint8]:
    """A bright box that moves right, in red where there is colour."""
    frames = np.full((FRAMES, HEIGHT, WIDTH, 3), 20, np.uint8)
    for t in range(FRAMES):
        frames[t, 10:30, 5 + 2 * t : 21 + 2 * t] = (220, 220, 220) if gray else (220, 40, 40)
    return frames


def write(
    path: Path, codec: str, frames: NDArray[np.uint8], pix_fmt: str = "yuv420p", **options: str
) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


KINDS = [
    ("a.mp4", "libx264", "yuv420p"), ("a.webm", "libvpx", "yuv420p"),
    ("a.webm", "libvpx-vp9", "yuv420p"), ("a.avi", "mpeg4", "yuv420p"),
    ("a.mov", "mjpeg", "yuvj420p"), ("a.mkv", "ffv1", "yuv420p"), ("a.avi", "mjpeg", "yuvj420p"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), KINDS)
def test_containers(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    frames = drawn()
    volume = read_volume(write(tmp_path / name, codec, frames, pix_fmt))
    assert volume.array.shape == frames.shape
    assert volume.is_video
    assert not volume.has_geometry
    assert volume.notes == ("12 frames at 10 per second",)
    difference = np.abs(volume.array[:, ::2, ::2].astype(int) - frames[:, ::2, ::2])
    assert np.median(difference) <= 3
    bright = volume.array[..., 0] > 120
    for t in range(FRAMES):  # every frame is there, in its place
        columns = np.flatnonzero(bright[t, 20])
        assert abs(columns[0] - (5 + 2 * t)) <= 2
        assert abs(columns[-1] - (20 + 2 * t)) <= 2


def test_lossless_video_is_exact(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 3), np.uint8)
    path = write(tmp_path / "a.mkv", "ffv1", frames, "bgr0")
    np.testing.assert_array_equal(read_video(path).array, frames)  # more frames than first room


def test_gray_video_takes_a_third(tmp_path: Path) -> None:
    frames = drawn(gray=True)
    path = write(tmp_path / "a.mkv", "ffv1", frames, "gray")
    np.testing.assert_array_equal(read_video(path).array, frames[..., 0])


def display_matrix(path: Path, turns: int) -> None:
    """Makes an mp4 say that it is to be shown turned clockwise by quarter turns."""
    one = 1 << 16
    a, b, c, d = ((one, 0, 0, one), (0, one, -one, 0), (-one, 0, 0, -one), (0, -one, one, 0))[turns]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # QuickTime File Format, Track Header Atom
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize("turns", range(4))
def test_rotation(tmp_path: Path, turns: int) -> None:
    frames = drawn()
    path = write(tmp_path / "a.mp4", "libx264", frames)
    upright = read_video(path).array
    display_matrix(path, turns)
    volume = read_video(path)
    np.testing.assert_array_equal(volume.array, np.rot90(upright, -turns, axes=(1, 2)))
    assert ("turned" in " ".join(volume.notes)) == (turns > 0)


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), KINDS)
def test_no_truncated_video_is_taken_for_a_whole_one(
    tmp_path: Path, name: str, codec: str, pix_fmt: str
) -> None:
    path = write(tmp_path / name, codec, drawn(), pix_fmt)
    whole, expected = path.read_bytes(), read_video(path).array
    for length in np.linspace(0, len(whole) - 1, 25).astype(int).tolist():
        path.write_bytes(whole[:length])
        try:
            found = read_video(path).array
        except UserError:
            continue
        np.testing.assert_array_equal(found, expected)  # an index at the end may be missing


def test_truncated_with_the_index_first(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "libx264", drawn())
    with (
        av.open(str(path)) as source,
        av.open(str(tmp_path / "b.mp4"), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    path = tmp_path / "b.mp4"
    whole = path.read_bytes()
    assert whole.index(b"moov") < whole.index(b"mdat")
    assert len(read_video(path).array) == FRAMES
    for cut in (1, 20, 60, 200, 500):
        path.write_bytes(whole[:-cut])
        with pytest.raises(UserError, match=r"truncated|damaged"):
            read_video(path)


def test_sizes_are_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, codec in (("a.mp4", "libx264"), ("a.webm", "libvpx")):  # WebM declares no number
        path = write(tmp_path / name, codec, drawn())
        monkeypatch.setenv("MEDSAM2FT_MAX_VOXELS", str(FRAMES * HEIGHT * WIDTH * 3))
        assert len(read_video(path).array) == FRAMES
        monkeypatch.setenv("MEDSAM2FT_MAX_VOXELS", str(FRAMES * HEIGHT * WIDTH * 3 - 1))
        with pytest.raises(UserError, match="MEDSAM2FT_MAX_VOXELS"):
            read_video(path)


def test_files_without_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), "s16", "mono")
        sound.rate = 8000
        for packet in (*stream.encode(sound), *stream.encode(None)):
            container.mux(packet)
    with pytest.raises(UserError, match="no video stream"):
        read_video(path)
    write(tmp_path / "other.mkv", "ffv1", drawn())
    path.write_text("ffconcat version 1.0\nfile other.mkv\n")
    with av.open(str(path)) as followed:
        assert followed.streams.video  # FFmpeg itself opens the other file
    with pytest.raises(UserError, match="cannot be decoded"):
        read_video(path)
    with pytest.raises(UserError, match="no such file"):
        read_video(tmp_path / "gone.mp4")


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'medsam2-ft\[video\]'"):
        read_video(tmp_path / "a.mp4")
