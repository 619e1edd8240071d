"""The size that a compressed frame declares inside its own codestream.

Decoders make room for what the codestream says, not for what DICOM's header says, so a small file
may ask for any amount of memory. Only the size is read here; decoding is left to libraries.
JPEG and JPEG-LS: ISO/IEC 10918-1 and 14495-1, frame header. JPEG 2000: ISO/IEC 15444-1, SIZ.
"""

import struct
from dataclasses import dataclass

_NO_FRAME_HEADER = (0xC4, 0xC8, 0xCC)  # DHT, JPG, DAC lie among the frame headers
_SOC_SIZ = b"\xff\x4f\xff\x51"
_LONGEST_BOXES = 4096
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))


@dataclass(frozen=True)
class CodestreamSize:
    """Extents of a compressed frame."""

    rows: int
    columns: int
    samples: int


def codestream_size(data: bytes) -> CodestreamSize | None:
    """Returns what a JPEG, JPEG-LS or JPEG 2000 codestream declares; None for another encoding.

    Raises:
        ValueError: It starts as one of these and has no readable size.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    start = jpeg2000_start(data)
    return None if start < 0 else _jpeg2000_size(data[start + 4 :])


def jpeg2000_start(data: bytes) -> int:
    """Returns where a JPEG 2000 codestream begins, behind the boxes of a JP2 file; -1: nowhere."""
    return data[:_LONGEST_BOXES].find(_SOC_SIZ)


def _jpeg_size(data: bytes) -> CodestreamSize:
    at = 2
    while at + 10 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("a JPEG marker is missing")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _WITHOUT_LENGTH:
            at += 2
            continue
        is_frame = (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADER) or marker == 0xF7
        length, _, rows, columns, samples = struct.unpack(">HBHHB", data[at + 2 : at + 10])
        if is_frame:
            return CodestreamSize(rows, columns, samples)
        at += 2 + length
    raise ValueError("a JPEG frame header is missing")


def _jpeg2000_size(segment: bytes) -> CodestreamSize:
    if len(segment) < 40:
        raise ValueError("a JPEG 2000 size segment is incomplete")
    x1, y1, x0, y0 = struct.unpack(">4I", segment[4:20])
    (samples,) = struct.unpack(">H", segment[36:38])
    return CodestreamSize(y1 - y0, x1 - x0, samples)
