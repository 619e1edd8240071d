"""Writes MP4 files through PyAV: H.264 where the build has it, else MPEG-4."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import atomic_path, make_folder

_CODECS: Final = (("libx264", {"crf": "18", "preset": "fast"}), ("mpeg4", {"qscale": "3"}))
_LARGEST_DENOMINATOR = 65535  # of a frame rate in MPEG-4


def write_mp4(
    path: Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], frames_per_second: Fraction
) -> int:
    """Writes a video, atomically, and makes its folder.

    Frames of an odd width or height get one more column or row, a copy of the last one, for the
    codecs want even sizes.

    Args:
        path: Target ending in .mp4.
        frames: RGB of one size, at least one; they are taken one at a time.
        frames_per_second: Above 0.

    Returns:
        Number of frames.

    Raises:
        UserError: The extra ``video`` is not installed, no codec, or the file cannot be written.
        ValueError: No frame, or frames of different size.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            f"{path}: videos need PyAV; run `pip install 'medsam2-ft[video]'`"
        ) from error
    make_folder(path.parent)
    count = 0
    with (
        atomic_path(path) as temporary,
        # the index in front: players and browsers can start before they have the whole file
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as file,
    ):
        stream: Any = None
        for count, frame in enumerate(frames, start=1):
            even = np.pad(frame, [(0, n % 2) for n in frame.shape[:2]] + [(0, 0)], "edge")
            if stream is None:
                stream = _stream(path, file, even.shape, frames_per_second)
            if (stream.height, stream.width) != even.shape[:2]:
                raise ValueError(f"frame {count} has another size than those before it")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            file.mux(stream.encode(picture))
        if stream is None:
            raise ValueError("a video needs at least one frame")
        file.mux(stream.encode())
    return count


def _stream(path: Path, file: Any, shape: tuple[int, ...], rate: Fraction) -> Any:
    import av

    for codec, options in _CODECS:
        if codec in av.codecs_available:
            stream = file.add_stream(
                codec, rate=rate.limit_denominator(_LARGEST_DENOMINATOR), options=options
            )
            stream.height, stream.width = shape[:2]
            stream.pix_fmt = "yuv420p"
            return stream
    raise UserError(f"{path}: PyAV has neither H.264 nor MPEG-4 here; install its usual wheel")
