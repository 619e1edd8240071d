"""What goes over the wire: gzip chunks with their sha256, packed masks, changed regions.

Standard library and numpy only, and the syntax of Python 3.9: clients carry a copy of this file.
"""

import base64
import binascii
import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

PROTOCOL_VERSION = 1
CHUNK_BYTES = 4 << 20
"""Length of a chunk before compression; the last one may be shorter."""
MAX_MASK_VOXELS = 1 << 34
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


class WireError(ValueError):
    """Something that arrived is damaged, too large, or not what it claims to be."""


def sha256_hex(data: bytes) -> str:
    """Returns the sha256 of some bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def little_endian(dtype: str) -> "np.dtype[Any]":
    """Returns the little-endian type of a name in ``DTYPES``.

    Raises:
        WireError: Another name.
    """
    if dtype not in DTYPES:
        raise WireError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    return np.dtype(dtype).newbyteorder("<")


def chunk_count(total_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Number of chunks that an array of ``total_bytes`` makes."""
    return -(-total_bytes // chunk_bytes)


def chunk_length(number: int, total_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Length in bytes, uncompressed, of chunk ``number``.

    Raises:
        WireError: There is no such chunk.
    """
    if not 0 <= number < chunk_count(total_bytes, chunk_bytes):
        raise WireError(
            f"chunk {number} does not exist: there are {chunk_count(total_bytes, chunk_bytes)}"
        )
    return min(chunk_bytes, total_bytes - number * chunk_bytes)


def pack_chunks(
    array: "NDArray[Any]", chunk_bytes: int = CHUNK_BYTES
) -> Iterator[tuple[int, bytes, str]]:
    """Cuts an array into the bodies of an upload.

    Args:
        array: Any shape, a type of ``DTYPES``; sent in C order, little-endian.
        chunk_bytes: Length of a chunk before compression, as the server asked for.

    Yields:
        Number of the chunk, its gzip body, and the sha256 of that body.
    """
    plain = np.ascontiguousarray(array, dtype=little_endian(array.dtype.name))
    flat = plain.reshape(-1).view(np.uint8)
    for number in range(chunk_count(flat.size, chunk_bytes)):
        piece = flat[number * chunk_bytes : (number + 1) * chunk_bytes].tobytes()
        body = gzip.compress(piece, compresslevel=1, mtime=0)
        yield number, body, sha256_hex(body)


def unpack_chunk(body: bytes, sha256: Optional[str], expected: int) -> bytes:  # noqa: UP045
    """Undoes ``pack_chunks`` for one chunk.

    Args:
        body: The gzip body.
        sha256: Of the body in hexadecimal; None is not compared.
        expected: Length in bytes that must come out.

    Raises:
        WireError: Another sha256, damaged or truncated gzip, or another length.
    """
    if sha256 is not None and sha256.lower() != sha256_hex(body):
        raise WireError("the sha256 differs from that of the body: send the chunk again")
    data = gunzip(body, expected)
    if len(data) != expected:
        raise WireError(f"the chunk holds {len(data)} bytes and not {expected}")
    return data


def gunzip(body: bytes, limit: int) -> bytes:
    """Unpacks one gzip member; what unpacks to more than ``limit`` bytes is refused early.

    Raises:
        WireError: Damaged, truncated, followed by other bytes, or too large.
    """
    stream = zlib.decompressobj(wbits=31)
    try:
        data = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise WireError(f"not gzip, or damaged: {error}") from error
    if len(data) > limit:
        raise WireError(f"unpacks to more than {limit} bytes")
    if not stream.eof:
        raise WireError("the gzip data is truncated")
    if stream.unused_data:
        raise WireError("bytes follow the gzip data")
    return data


def pack_mask(mask: "NDArray[Any]") -> bytes:
    """Packs a mask: eight voxels to a byte (C order, highest bit first), then gzip."""
    return gzip.compress(np.packbits(mask.astype(bool, order="C")).tobytes(), 1, mtime=0)


def unpack_mask(data: bytes, shape: Sequence[int]) -> "NDArray[Any]":
    """Undoes ``pack_mask``.

    Args:
        data: What ``pack_mask`` gave.
        shape: Of the mask.

    Returns:
        bool array.

    Raises:
        WireError: Damaged, or not as long as the shape needs.
    """
    if any(side < 0 for side in shape):
        raise WireError(f"shape {tuple(shape)} has a negative side")
    count = 1
    for side in shape:
        count *= int(side)
    if count > MAX_MASK_VOXELS:
        raise WireError(f"shape {tuple(shape)} has more than {MAX_MASK_VOXELS} voxels")
    packed = gunzip(data, (count + 7) // 8)
    if len(packed) != (count + 7) // 8:
        raise WireError(f"{len(packed)} bytes are not a mask of shape {tuple(shape)}")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=count)
    return bits.astype(bool).reshape(tuple(shape))


def mask_to_json(mask: "NDArray[Any]") -> dict[str, Any]:
    """Returns a mask as ``{shape, bits}``, for JSON; ``bits`` is base64 of ``pack_mask``."""
    return {"shape": list(mask.shape), "bits": base64.b64encode(pack_mask(mask)).decode("ascii")}


def mask_from_json(
    fields: dict[str, Any],
    shape: Optional[Sequence[int]] = None,  # noqa: UP045
) -> "NDArray[Any]":
    """Undoes ``mask_to_json``.

    Args:
        fields: ``shape`` and ``bits``.
        shape: What the shape must be; None takes the stated one.

    Raises:
        WireError: Fields are missing, damaged, or the shape is another.
    """
    try:
        stated = tuple(int(side) for side in fields["shape"])
        data = base64.b64decode(fields["bits"], validate=True)
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as error:
        raise WireError(f"not a mask (shape and bits): {error}") from error
    if shape is not None and stated != tuple(shape):
        raise WireError(f"the mask has shape {stated} and not {tuple(shape)}")
    return unpack_mask(data, stated)


def changed_box(before: "NDArray[Any]", after: "NDArray[Any]") -> Optional[tuple[slice, ...]]:  # noqa: UP045
    """Returns the smallest box that holds every voxel in which two masks differ, or None."""
    different = before != after
    if not different.any():
        return None
    box: list[slice] = []
    for axis in range(different.ndim):
        others = tuple(other for other in range(different.ndim) if other != axis)
        places = np.flatnonzero(different.any(axis=others))
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return tuple(box)


def region_to_json(
    object_id: int,
    mask: "NDArray[Any]",
    offset: Sequence[int],
) -> dict[str, Any]:
    """Returns a changed region: what an object's mask now is within a box.

    Args:
        object_id: The object.
        mask: Its mask within the box, ``(k, j, i)``.
        offset: First voxel of the box, ``(k, j, i)``.
    """
    return {"object_id": object_id, "offset": list(offset), **mask_to_json(mask)}


def apply_region(volume: "NDArray[Any]", region: dict[str, Any]) -> None:
    """Writes a changed region into the mask of its object.

    Args:
        volume: bool ``(k, j, i)``; changed within the region's box only.
        region: What ``region_to_json`` gave.

    Raises:
        WireError: Damaged, or outside the volume; the volume is then as it was.
    """
    try:
        offset = [int(first) for first in region["offset"]]
        sides = [int(side) for side in region["shape"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise WireError(f"not a region (offset, shape and bits): {error}") from error
    fits = len(offset) == len(sides) == volume.ndim and all(
        first >= 0 and side >= 0 and first + side <= size
        for first, side, size in zip(offset, sides, volume.shape)  # noqa: B905
    )
    if not fits:
        raise WireError(f"region {offset}+{sides} lies outside the volume {volume.shape}")
    mask = mask_from_json(region)
    volume[tuple(slice(a, a + n) for a, n in zip(offset, sides))] = mask  # noqa: B905
