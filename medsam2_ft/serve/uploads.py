"""Images of sessions: bytes that arrive in chunks or as a file, then 0-255 values."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import apply_rule
from medsam2_ft.io import VIDEO_SUFFIXES, VOLUME_SUFFIXES, file_suffix, read_volume
from medsam2_ft.serve.core import SegmentationSession
from medsam2_ft.serve.engine import Engine, Loaded
from medsam2_ft.serve.geometry import from_matrix
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.schemas import NewSession
from medsam2_ft.serve.sessions import Held
from medsam2_ft.serve.settings import Settings
from medsam2_ft.serve.wire import chunk_count, chunk_length, little_endian, unpack_chunk
from medsam2_ft.types import IntensityRule, Volume

_RAW = "image.raw"
# Headers of voxels that lie in another file cannot be uploaded.
_ONE_FILE = tuple(suffix for suffix in VOLUME_SUFFIXES if suffix not in (".nhdr", ".mhd"))


def check_asked(asked: NewSession, settings: Settings) -> None:
    """Refuses what could not be held, before it is uploaded.

    Raises:
        Problem: 413 or 422.
        UserError: The matrix is no grid.
    """
    if (asked.shape is None) != (asked.dtype is None):
        raise Problem(422, "shape and dtype go together.", "Leave both out to send a file.")
    if asked.shape is not None:
        if len(asked.shape) == 4 and (asked.shape[3] != 3 or asked.dtype != "uint8"):
            raise Problem(422, "Colour is (k, j, i, 3) of uint8.", "Choose a frame of 4-D data.")
        check_voxels(asked.shape[:3], settings)
        if asked.kind == "image" and asked.shape[0] != 1:
            raise Problem(422, "An image has one slice.", "Choose kind volume or video.")
    if asked.window is not None and asked.window[0] >= asked.window[1]:
        raise Problem(422, "window is [lower, upper], lower below upper.")
    if asked.ijk_to_lps is not None:
        from_matrix(asked.ijk_to_lps)


def check_voxels(shape: Sequence[int], settings: Settings) -> None:
    """Refuses images with too many voxels.

    Raises:
        Problem: 413.
    """
    if math.prod(shape) > settings.max_voxels:
        raise Problem(
            413, f"The image has more than {settings.max_voxels} voxels.", "Crop or resample it."
        )


def total_bytes(asked: NewSession) -> int:
    """Length of the array that was announced; 0 where a file will come."""
    if asked.shape is None or asked.dtype is None:
        return 0
    return math.prod(asked.shape) * little_endian(asked.dtype).itemsize


def store_chunk(
    held: Held, number: int, body: bytes, sha256: str | None, settings: Settings
) -> bool:
    """Puts a chunk into its place.

    Returns:
        Whether the image is now complete.

    Raises:
        Problem: 409, the image is complete already or a file was announced.
        WireError: The chunk is damaged, or there is none of that number.
        OSError: The disk is full.
    """
    total = total_bytes(held.asked)
    if not total or held.state != "empty":
        raise Problem(409, "No chunk is expected.", "Announce shape and dtype; send each once.")
    expected = chunk_length(number, total, settings.chunk_bytes)
    data = unpack_chunk(body, sha256, expected)
    with held.guard:
        if held.state != "empty":
            raise Problem(409, "No chunk is expected.", "The image is complete.")
        path = held.folder / _RAW
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(number * settings.chunk_bytes)
            file.write(data)
        held.received.add(number)
        complete = len(held.received) == chunk_count(total, settings.chunk_bytes)
        if complete:
            held.state = "loading"
    return complete


def safe_suffix(filename: str) -> str:
    """Returns the suffix of a name that a client gave; nothing else of it is used.

    Raises:
        Problem: 422, no format that can be read.
    """
    suffix = file_suffix(Path(filename.replace("\\", "/").rsplit("/", 1)[-1]))
    if suffix not in _ONE_FILE:
        raise Problem(422, "The file's suffix is no image format.", " ".join(_ONE_FILE))
    return suffix


def load(held: Held, engine: Engine, settings: Settings, file: Path | None, every: int = 1) -> None:
    """Turns what arrived into a session's image.

    Args:
        held: The session.
        engine: The models.
        settings: Limits.
        file: Removed when it was read; None takes the chunks.
        every: Of a video's frames, only every so many are kept.

    Raises:
        Problem: 413, the file's image is too large.
        UserError: The file cannot be read, or the values are not finite.
    """
    try:
        volume = _from_chunks(held) if file is None else read_upload(file)
        volume = replace(volume, array=volume.array[::every]) if every > 1 else volume
        check_voxels(volume.array.shape[:3], settings)
        loaded = engine.load(held.model)
        held.rule = choose_rule(loaded, volume, held.asked.window, held.asked.modality)
        gray = np.ascontiguousarray(apply_rule(volume.array, held.rule))
    except BaseException:
        held.received.clear()
        held.state = "empty" if held.core is None else "ready"
        raise
    finally:
        for path in (held.folder / _RAW, file):
            if path is not None:
                path.unlink(missing_ok=True)
    held.geometry, held.has_geometry = volume.geometry, volume.has_geometry
    held.is_video = volume.is_video or held.asked.kind == "video"
    held.modality = volume.modality or held.asked.modality
    held.notes = volume.notes
    held.core = SegmentationSession(
        loaded.backend,
        gray,
        strategy=held.asked.strategy,
        max_objects=settings.max_objects,
    )
    held.state = "ready"


def choose_rule(
    loaded: Loaded, volume: Volume, window: Sequence[float] | None, modality: str | None
) -> IntensityRule:
    """Chooses what turns an image to 0-255: the client's window, else the model's rule."""
    if window is not None and volume.array.ndim == 3:
        return IntensityRule("window", float(window[0]), float(window[1]))
    if volume.modality is None and modality is not None:
        volume = Volume(volume.array, modality=modality)
    return loaded.rule_for(volume)


def read_upload(file: Path) -> Volume:
    """Reads an uploaded file; messages do not name it.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return read_volume(file)
    except UserError as error:
        raise UserError(str(error).replace(str(file), "the file")) from error


def stated_rate(file: Path) -> float | None:
    """Returns the frames per second that an uploaded video states; None of other files.

    Raises:
        UserError: It cannot be read.
    """
    if file_suffix(file) not in VIDEO_SUFFIXES:
        return None
    from medsam2_ft.io.video import frame_rate

    try:
        rate = frame_rate(file)
    except UserError as error:
        raise UserError(str(error).replace(str(file), "the file")) from error
    return None if rate is None else float(rate)


def _from_chunks(held: Held) -> Volume:
    asked = held.asked
    if asked.shape is None or asked.dtype is None:
        raise AssertionError("chunks without shape")
    array = np.fromfile(held.folder / _RAW, little_endian(asked.dtype)).reshape(asked.shape)
    if asked.ijk_to_lps is None:
        return Volume(array, has_geometry=False, modality=asked.modality)
    return Volume(array, from_matrix(asked.ijk_to_lps), modality=asked.modality)
