"""Videos through PyAV (FFmpeg), read here and written in ``video_write``."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.npz_zip import check_size
from medsam2_ft.io.pixels import channels_equal
from medsam2_ft.types import Volume

_GROWTH = 1.5
_FIRST_FRAMES = 64
_TOLERATED_FRAMES = 0.75
# A playlist that calls itself a video would make FFmpeg open other files and addresses.
_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
    "protocol_whitelist": "file",
}


def read_video(path: Path) -> Volume:
    """Reads all frames of a video, turned upright as its metadata says.

    Returns:
        ``(t, y, x, 3)`` uint8, or ``(t, y, x)`` where every frame is gray; a video without
        geometry, with its frame rate in the notes.

    Raises:
        UserError: The extra ``video`` is not installed; missing, damaged or truncated file, one
            without a video stream, frames of different size, or more than the size limit.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    try:
        import av
    except ImportError as error:
        raise UserError(
            f"{path}: videos need PyAV; run `pip install 'medsam2-ft[video]'`"
        ) from error
    with _readable(path, av), _open(path, av) as container:
        if not container.streams.video:
            raise UserError(f"{path}: has no video stream; give the file that shows the images")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise UserError(f"{path}: its codec is unknown or its header is damaged; convert it")
        frames, notes = _decode(path, container, stream)
    if channels_equal(frames):
        frames = np.ascontiguousarray(frames[..., 0])
    return Volume(frames, has_geometry=False, is_video=True, notes=tuple(notes))


def _open(path: Path, av: Any) -> Any:
    return av.open(str(path), metadata_errors="replace", options=_OPTIONS)


@contextmanager
def _readable(path: Path, av: Any) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (av.FFmpegError, ValueError, OSError, MemoryError, IndexError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:160]
        raise UserError(
            f"{path}: cannot be decoded ({reason}); the video is truncated, damaged or no video: "
            "copy it again"
        ) from error


def _decode(path: Path, container: Any, stream: Any) -> tuple[NDArray[np.uint8], list[str]]:
    check_size(str(path), max(stream.frames, 1) * stream.width * stream.height * 3)
    stream.codec_context.thread_count = 1  # cases are prepared in parallel
    stream.codec_context.options = {"err_detect": "explode"}
    rate = float(stream.average_rate or 0)
    frames = _Frames(path, stream.frames, usual_seconds=1 / rate if rate else 0.0)
    packets = 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise UserError(f"{path}: packet {packets} is damaged; copy the video again")
        packets += packet.size > 0
        for frame in packet.decode():
            frames.add(frame)
    if not frames.count:
        raise UserError(f"{path}: no frame could be decoded; copy the video again")
    _check_complete(path, container, stream, frames)
    return frames.array, _notes(stream, frames, packets)


class _Frames:
    """An array that grows as frames come: containers may lie about their number."""

    def __init__(self, path: Path, declared: int, usual_seconds: float) -> None:
        self.count = 0
        self.rotation = 0
        self.start: float | None = None
        self.end = 0.0
        self._path = path
        self._declared = declared
        self._usual = usual_seconds
        self._array: NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)

    @property
    def array(self) -> NDArray[np.uint8]:
        """The frames so far, ``(t, y, x, 3)``."""
        return self._array[: self.count]

    def add(self, frame: Any) -> None:
        """Appends a frame, upright.

        Raises:
            UserError: Another size than the first, a damaged frame, or too many.
        """
        if frame.is_corrupt:
            raise UserError(f"{self._path}: frame {self.count} is damaged; copy the video again")
        if frame.time is not None:
            self.start = frame.time if self.start is None else min(self.start, frame.time)
            shown = float((frame.duration or 0) * frame.time_base)
            self.end = max(self.end, frame.time + (shown or self._usual))
        self.rotation = int(frame.rotation)
        if self.rotation % 90:
            raise UserError(
                f"{self._path}: is to be turned by {self.rotation} degrees; save it upright"
            )
        check_size(str(self._path), (self.count + 1) * frame.width * frame.height * 3)
        pixels = np.rot90(frame.to_ndarray(format="rgb24"), self.rotation // 90)
        if not self.count:
            self._array = np.empty((self._room(pixels.size), *pixels.shape), np.uint8)
        if pixels.shape != self._array.shape[1:]:
            raise UserError(
                f"{self._path}: frame {self.count} has another size than those before it; cut the "
                "video where the size changes"
            )
        if self.count == len(self._array):
            more = np.empty((int(self.count * _GROWTH) + 1, *pixels.shape), np.uint8)
            more[: self.count] = self._array
            self._array = more
        self._array[self.count] = pixels
        self.count += 1

    def _room(self, frame_size: int) -> int:
        """Frames to make room for: as declared, if that many fit into the limit."""
        check_size(str(self._path), self._declared * frame_size)
        return self._declared or _FIRST_FRAMES


def _check_complete(path: Path, container: Any, stream: Any, frames: _Frames) -> None:
    """Compares the time that the frames cover with what the container declares.

    Not their number: dropped frames of a capture card and edit lists are no damage.

    Raises:
        UserError: The end is missing.
    """
    rate = float(stream.average_rate or 0)
    if not rate or frames.start is None:
        return
    declared = _seconds(stream.metadata.get("DURATION", ""))
    if stream.duration:
        declared = float(stream.duration * stream.time_base)
    elif not declared and len(container.streams) == 1 and container.duration:
        declared = container.duration / 1e6
    covered = frames.end - frames.start
    if covered < declared - _TOLERATED_FRAMES / rate:
        raise UserError(
            f"{path}: {frames.count} frames cover {covered:.2f} of {declared:.2f} seconds; the "
            "video is truncated or damaged: copy it again"
        )


def _seconds(text: str) -> float:
    """Seconds of Matroska's ``00:00:01.500000000``; 0 where it is no such text."""
    pieces = text.split(":")
    try:
        hours, minutes, seconds = (float(piece) for piece in pieces)
    except ValueError:
        return 0.0
    return 3600 * hours + 60 * minutes + seconds


def _notes(stream: Any, frames: _Frames, packets: int) -> list[str]:
    rate = float(stream.average_rate or 0)
    notes = [f"{frames.count} frames" + (f" at {rate:.4g} per second" if rate else "")]
    missing = max(stream.frames, packets) - frames.count
    if missing > 0:
        notes.append(f"{missing} of the stored frames are not shown by the decoder")
    if frames.rotation:
        notes.append(f"turned by {frames.rotation} degrees, as the video says")
    return notes


def frame_rate(path: Path) -> Fraction | None:
    """Returns the frames per second that a video states, None where it states none.

    Raises:
        UserError: As ``read_video``.
    """
    import av

    with _readable(path, av), _open(path, av) as container:
        rate = container.streams.video[0].average_rate if container.streams.video else None
    return Fraction(rate) if rate else None
