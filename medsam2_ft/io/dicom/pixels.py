"""Decodes the frames of one DICOM image to values, after checking the sizes that they declare."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from medsam2_ft.errors import UserError
from medsam2_ft.io.dicom import decoders
from medsam2_ft.io.dicom.codestream import codestream_size
from medsam2_ft.io.dicom.files import (
    AnyTag,
    damaged_as_user_error,
    integer,
    items,
    number,
    open_dataset,
    text,
    transfer_syntax,
)
from medsam2_ft.io.dicom.header import Plane

_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
PIXEL_TAGS: tuple[AnyTag, ...] = (
    "SOPClassUID",
    "Modality",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "RescaleSlope",
    "ModalityLUTSequence",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "AlphaPaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "AlphaPaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    *_KEYWORDS,
)
_WITH_UNITS = ("CT", "PT")  # HU and activity do not change with how they are to be shown
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_MODEST_VALUES = 1 << 26
_LARGEST_RATIO = 2000  # values per compressed byte beyond which a large frame is a bomb


def stored_frames(
    path: Path, dataset: Dataset, frames: Sequence[int]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Decodes frames one at a time.

    Args:
        path: The file that ``dataset`` was read from, with ``PIXEL_TAGS`` at least.
        dataset: The parsed file.
        frames: Indices of the frames, ascending.

    Yields:
        Index and stored values: ``(y, x)``, or ``(y, x, 3)`` as RGB. Bits that are not part of the
        value are gone.

    Raises:
        UserError: Damaged, not decodable, or of another size than declared.
    """
    with damaged_as_user_error(path, "pixel data"):
        decoder = _decoder(path, dataset)
        _check_pixel_data(path, dataset, decoder)
        plugin = decoders.LABEL if decoder.UID in decoders.SYNTAXES else ""
        values: Iterator[tuple[NDArray[Any], Any]]
        if not decoder.is_encapsulated and integer(dataset, "BitsAllocated", 16) == 1:
            values = ((frame, None) for frame in _bit_frames(dataset, frames))
        else:
            values = decoder.iter_array(dataset, indices=list(frames), decoding_plugin=plugin)
    for frame in frames:
        with damaged_as_user_error(path, "pixel data"):
            found = next(values, None)
        if found is None:
            raise UserError(f"{path}: frame {frame + 1} is missing; copy the file again")
        yield frame, found[0]


def _bit_frames(dataset: Dataset, frames: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """Frames of one bit a pixel; pydicom 3.0 loses bits where they do not begin with a byte."""
    rows, columns = integer(dataset, "Rows", 0), integer(dataset, "Columns", 0)
    data = np.frombuffer(dataset["PixelData"].value, np.uint8)
    for frame in frames:
        first, skipped = divmod(frame * rows * columns, 8)
        last = -(-(frame + 1) * rows * columns // 8)
        bits = np.unpackbits(data[first:last], bitorder="little")
        yield bits[skipped : skipped + rows * columns].reshape(rows, columns)


def _decoder(path: Path, dataset: Dataset) -> Decoder:
    syntax = transfer_syntax(dataset)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is not None:
        decoders.add_to(decoder)
    if decoder is None or not decoder.is_available:
        name = "a private encoding" if syntax.is_private else syntax.name
        raise UserError(
            f"{path}: its pixels are encoded as {name}, which cannot be decoded here; convert the "
            "file, for example with gdcmconv --raw (a film: with ffmpeg)"
        )
    return decoder


def _check_pixel_data(path: Path, dataset: Dataset, decoder: Decoder) -> None:
    """Compares the size of the pixel data with the declared one, without decoding it."""
    keyword = next((key for key in _KEYWORDS if key in dataset), None)
    if keyword is None or not dataset[keyword].value:
        raise UserError(f"{path}: has no pixel data; copy the file again or leave it out")
    data = dataset[keyword].value
    frames = integer(dataset, "NumberOfFrames", 1)
    values = math.prod(integer(dataset, key, 1) for key in ("Rows", "Columns", "SamplesPerPixel"))
    if not decoder.is_encapsulated:
        bits = integer(dataset, "BitsAllocated", 16)
        if text(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
            bits = bits * 2 // 3
        declared = -(-values * frames * bits // 8)
        if len(data) < declared:
            raise UserError(
                f"{path}: its header declares {declared} bytes of pixels and {len(data)} are "
                "there; the file is truncated or damaged: copy it again"
            )
        return
    if values * frames > max(_MODEST_VALUES, _LARGEST_RATIO * len(data)):
        raise UserError(
            f"{path}: declares {values * frames} values in {len(data)} compressed bytes; it is no "
            "genuine file: leave it out"
        )
    offsets = _extended_offsets(dataset)
    found = 0
    for frame in generate_frames(data, number_of_frames=frames, extended_offsets=offsets):
        _check_codestream(path, dataset, frame, decoder)
        found += 1
    if found < frames:
        raise UserError(
            f"{path}: declares {frames} frames and holds {found}; the file is truncated or "
            "damaged: copy it again"
        )


def _extended_offsets(dataset: Dataset) -> tuple[bytes, bytes] | None:
    keys = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
    if any(not dataset.get(key) for key in keys):
        return None
    return dataset[keys[0]].value, dataset[keys[1]].value


def _check_codestream(path: Path, dataset: Dataset, frame: bytes, decoder: Decoder) -> None:
    size = codestream_size(frame) if decoder.UID in decoders.SYNTAXES else None
    if size is None:
        if decoder.UID in decoders.SYNTAXES:
            raise UserError(f"{path}: its pixels are no {decoder.UID.name}; copy the file again")
        return
    declared = tuple(integer(dataset, key, 1) for key in ("Rows", "Columns", "SamplesPerPixel"))
    if (size.rows, size.columns, size.samples) != declared:
        raise UserError(
            f"{path}: its header declares {declared[1]} x {declared[0]} x {declared[2]} and its "
            f"compressed pixels {size.columns} x {size.rows} x {size.samples}; the file is "
            "damaged or no genuine one: leave it out"
        )


class FileValues:
    """Values of one image file: decoded, in colour or gray, and in the units of its header."""

    def __init__(self, path: Path) -> None:
        """Parses the file.

        Raises:
            UserError: The file is damaged.
        """
        self.path = path
        self._dataset = open_dataset(path, PIXEL_TAGS, with_pixels=True)
        with damaged_as_user_error(path, "header"):
            self._photometric = text(self._dataset, "PhotometricInterpretation")
            self._bits = integer(self._dataset, "BitsStored", 16)
            self._is_signed = integer(self._dataset, "PixelRepresentation", 0) == 1
            self._padding = number(self._dataset, "PixelPaddingValue")
            self._has_units = text(self._dataset, "Modality") in _WITH_UNITS
            self._has_table = bool(items(self._dataset, "ModalityLUTSequence"))
        self.padded = 0
        self.notes: set[str] = set()

    def planes(
        self, planes: Sequence[Plane], factor: float = 1.0
    ) -> Iterator[tuple[Plane, NDArray[Any]]]:
        """Decodes planes one at a time, in the order of their frames.

        Args:
            planes: Planes of this file.
            factor: What rescaled values are multiplied by.

        Yields:
            The plane with its values: ``(y, x)`` or, for colour, ``(y, x, 3)`` uint8. Integers
            where slope, intercept and factor are integers, else float32.

        Raises:
            UserError: Damaged, not decodable, or of another size than declared.
        """
        by_frame = {plane.frame: plane for plane in planes}
        for frame, stored in stored_frames(self.path, self._dataset, sorted(by_frame)):
            plane = by_frame[frame]
            if stored.shape[:2] != plane.shape[:2]:
                raise UserError(f"{self.path}: its pixels have another size; copy it again")
            if self._photometric == "PALETTE COLOR" or stored.ndim == 3:
                yield plane, self._as_rgb(stored)
            else:
                yield plane, _rescaled(self._as_gray(stored), plane, factor)

    def _as_rgb(self, stored: NDArray[Any]) -> NDArray[np.uint8]:
        """Eight bits of each colour; pydicom has turned the YBR spaces that it knows into RGB."""
        if self._photometric not in _COLOURS:
            raise UserError(
                f"{self.path}: colours as {self._photometric[:20] or 'nothing known'} are not "
                "supported; convert it to RGB"
            )
        shift = self._bits_of(stored) - 8
        if self._photometric == "PALETTE COLOR":
            with damaged_as_user_error(self.path, "palette"):
                stored = apply_color_lut(stored, self._dataset)[..., :3]
            shift = 8 * (stored.dtype.itemsize - 1)
        if stored.dtype.kind != "u":
            raise UserError(f"{self.path}: colours of type {stored.dtype}; convert it to 8-bit RGB")
        return (stored >> max(shift, 0)).astype(np.uint8)

    def _bits_of(self, stored: NDArray[Any]) -> int:
        return min(max(self._bits, 1), 8 * stored.dtype.itemsize)

    def _as_gray(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Applies the file's table and turns MONOCHROME1 round."""
        if self._padding is not None:
            self.padded += int(np.count_nonzero(stored == self._padding))
        if self._has_table:
            with damaged_as_user_error(self.path, "modality table"):
                stored = apply_modality_lut(stored, self._dataset)
        if self._photometric != "MONOCHROME1" or stored.dtype.kind not in "ui":
            return stored
        if self._has_units:
            self.notes.add("values are to be shown inverted (MONOCHROME1); they stay as they are")
            return stored
        self.notes.add("values are inverted (MONOCHROME1), so that bright is high")
        if self._has_table:
            inverted: NDArray[Any] = stored.max() - stored
            return inverted
        # lowest + highest value of the type; ~v is -1 - v without overflow
        if self._is_signed:
            return ~stored
        turned: NDArray[Any] = stored.dtype.type((1 << self._bits_of(stored)) - 1) - stored
        return turned


def _rescaled(stored: NDArray[Any], plane: Plane, factor: float) -> NDArray[Any]:
    slope, intercept = plane.slope * factor, plane.intercept * factor
    if (slope, intercept) == (1.0, 0.0):
        return stored
    if (
        stored.dtype.kind in "ui"
        and stored.dtype.itemsize <= 2
        and _is_small_integer(slope, intercept)
    ):
        return stored.astype(np.int32) * np.int32(slope) + np.int32(intercept)
    with np.errstate(over="ignore"):  # shows as an infinity, which the caller refuses
        return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def _is_small_integer(slope: float, intercept: float) -> bool:
    """Whether any 16-bit value, rescaled, is an integer that int32 holds."""
    return (
        slope.is_integer()
        and intercept.is_integer()
        and abs(slope) < 1 << 14
        and abs(intercept) < 1 << 30
    )
