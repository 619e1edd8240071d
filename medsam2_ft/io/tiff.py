"""TIFF through tifffile: any depth, pages, strips or tiles, palettes, planes."""

import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.npz_zip import check_size
from medsam2_ft.io.pixels import Picture, check_expansion, reduce_colour

# old and new JPEG, JPEG 2000, lossy DNG, WebP, JPEG XR and XL: some can be lossless, none must be
_LOSSY = frozenset(
    {6, 7, 22610, 33003, 33004, 33005, 34712, 34892, 34927, 34934, 50001, 50002, 52546}
)
_JPEG = frozenset({6, 7, 33007})
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_ORIENTATION_TAG = 274
_DAMAGED = (
    tifffile.TiffFileError,
    imagecodecs.DelayedImportError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RuntimeError,  # imagecodecs' errors
    AttributeError,  # tifffile, where a damaged file lacks a tag
    AssertionError,
    struct.error,
)


def decode_tiff(path: Path) -> Picture:
    """Decodes all pages of a TIFF file.

    White-is-zero pictures are inverted, so that large values are bright. Pages are slices; where
    the file calls them time points, the picture is a video.

    Raises:
        UserError: Missing, damaged, truncated, beyond the size limit, several series of different
            size, or channels that are not RGB.
    """
    try:
        with _no_errors_logged(path), tifffile.TiffFile(path, is_mmstack=False) as tif:
            return _decode(path, tif)
    except UserError:
        raise
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"{path}: cannot be read ({reason}); the TIFF file is truncated, damaged or of a rare "
            "kind: copy it again, or save it as an uncompressed TIFF or as PNG"
        ) from error


@contextmanager
def _no_errors_logged(path: Path) -> Iterator[None]:
    """Turns what tifffile only logs, such as pages that are missing, into an error."""
    logger = logging.getLogger("tifffile")
    messages: list[str] = []

    class Recorder(logging.Handler):
        """Keeps messages of level ERROR; the others are of no interest to the user."""

        def emit(self, record: logging.LogRecord) -> None:
            """Takes one record."""
            if record.levelno >= logging.ERROR:
                messages.append(" ".join(record.getMessage().split()))

    recorder, propagate = Recorder(), logger.propagate
    logger.addHandler(recorder)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(recorder)
        logger.propagate = propagate
    if messages:
        raise UserError(
            f"{path}: is truncated or damaged ({messages[0][:160]}); copy or save it again"
        )


def _decode(path: Path, tif: tifffile.TiffFile) -> Picture:
    series = _only_series(path, tif)
    page: Any = series.keyframe
    check_size(str(path), math.prod(series.shape))
    size = path.stat().st_size
    check_expansion(path, size, math.prod(series.shape) * page.dtype.itemsize)
    _check_segments(path, series, size)
    array, is_video = _order_axes(path, series)
    if array.dtype.kind not in "buif":
        raise UserError(f"{path}: values of type {array.dtype}; save it as real numbers")
    notes: list[str] = []
    array, transparent = _drop_alpha(path, array, page)
    array, indices = _apply_photometric(path, array, page, notes)
    if array.ndim == 4:
        array, more = reduce_colour(str(path), array)
        notes += more
    if len(array) > 1 and not is_video:
        notes.append(f"{len(array)} pages were read as slices")
    turned = _turn_upright(array, page, notes)
    turned_indices = None if indices is None else _turn_upright(indices, page, [])
    lossy = int(page.compression) in _LOSSY
    return Picture(turned, turned_indices, lossy, transparent, is_video, tuple(notes))


def _only_series(path: Path, tif: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """The one series of full size; thumbnails are passed over."""
    full = [s for s in tif.series if s.keyframe is not None and not s.keyframe.is_reduced]
    full = full or list(tif.series)
    if len(full) != 1:
        found = ", ".join(" x ".join(map(str, s.shape)) for s in full[:5]) or "no picture"
        raise UserError(
            f"{path}: holds {len(full)} pictures of different size or type ({found}); save the "
            "one that is meant in a file of its own"
        )
    pages = full[0].pages
    if any(page is None or page.parent.filehandle.path != tif.filehandle.path for page in pages):
        raise UserError(
            f"{path}: some of its pages are missing or lie in other files; save all in one file"
        )
    return full[0]


def _check_segments(path: Path, series: tifffile.TiffPageSeries, size: int) -> None:
    """Makes sure that all data lies in the file: tifffile puts zeros where it does not."""
    contiguous = series.dataoffset
    missing = contiguous is not None and contiguous + series.nbytes > size
    for page in series.pages if contiguous is None else ():
        segments = (
            [] if page is None else list(zip(page.dataoffsets, page.databytecounts, strict=True))
        )
        missing |= not segments or any(n <= 0 or at <= 0 or at + n > size for at, n in segments)
    if missing:
        raise UserError(f"{path}: a part of the TIFF file's data is missing; copy it again")


def _order_axes(path: Path, series: tifffile.TiffPageSeries) -> tuple[NDArray[Any], bool]:
    """Reads the series as ``(z, y, x)`` or ``(z, y, x, samples)``; whether z is time."""
    axes, shape = series.get_axes(squeeze=False), series.get_shape(squeeze=False)
    extent: dict[str, int] = {}
    for axis, n in zip(axes, shape, strict=True):
        extent[axis] = extent.get(axis, 1) * n
    channels = extent.get("C", 1)
    is_colour = channels == 3 and extent.get("S", 1) == 1 and series.dtype == np.uint8
    if channels > 1 and not is_colour:
        raise UserError(f"{path}: has {channels} channels; save the one that is meant")
    inner = "YXC" if is_colour else "YXS"
    stacked = [a for a, n in zip(axes, shape, strict=True) if a not in inner and n > 1]
    if len(stacked) > 1 or axes.count("Y") != 1 or axes.count("X") != 1:
        described = ", ".join(f"{a} {n}" for a, n in zip(axes, shape, strict=True))
        raise UserError(f"{path}: has the axes {described}; save one volume or video of it")
    array = series.asarray(squeeze=False, maxworkers=1)
    order = [axes.index(a) for a in inner if a in axes]
    array = np.moveaxis(array, order, range(-len(order), 0))
    array = array.reshape(-1, *array.shape[array.ndim - len(order) :])
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")), stacked == ["T"]


def _drop_alpha(path: Path, array: NDArray[Any], page: Any) -> tuple[NDArray[Any], bool]:
    if array.ndim == 3 or array.shape[-1] == 3:
        return array, False
    if array.shape[-1] not in (2, 4) or not page.extrasamples:
        raise UserError(f"{path}: has {array.shape[-1]} channels; save the one that is meant")
    alpha = array[..., -1]
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
    kept = array[..., 0] if array.shape[-1] == 2 else array[..., :3]
    return np.ascontiguousarray(kept), bool((alpha != opaque).any())


def _apply_photometric(
    path: Path, array: NDArray[Any], page: Any, notes: list[str]
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Values as brightness or RGB; and the palette's indices."""
    photometric = int(page.photometric)
    if photometric == _PALETTE and page.colormap is not None and array.ndim == 3:
        palette = (np.asarray(page.colormap).T >> 8).astype(np.uint8)
        return palette[array], array
    known = (_MINISWHITE, _MINISBLACK, _RGB)
    if photometric not in known and not (photometric == _YCBCR and int(page.compression) in _JPEG):
        raise UserError(f"{path}: colours are stored as {page.photometric!r}; save it as RGB")
    if photometric == _MINISWHITE:
        notes.append("white is zero in this file: its values were inverted")
        if array.dtype == np.bool_:
            return ~array, None
        if array.dtype.kind != "u":
            raise UserError(
                f"{path}: white is zero and values are {array.dtype}; save it with black as zero"
            )
        top = np.array(min((1 << page.bitspersample) - 1, np.iinfo(array.dtype).max), array.dtype)
        return top - array, None
    return array, None


def _turn_upright(array: NDArray[Any], page: Any, notes: list[str]) -> NDArray[Any]:
    tag = page.tags.get(_ORIENTATION_TAG)
    orientation = 1 if tag is None else int(tag.value)
    if not 2 <= orientation <= 8:
        return array
    notes.append(f"turned upright by TIFF orientation {orientation}")
    flips = {2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (1,), 7: (1, 2), 8: (2,)}
    turned = np.flip(array, flips[orientation])
    return np.ascontiguousarray(np.swapaxes(turned, 1, 2) if orientation >= 5 else turned)
