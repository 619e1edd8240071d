"""Chunks of HDF5 data sets that inflate to more than they declare.

HDF5 gives a deflated chunk as much memory as its stream asks for, whatever the size of a chunk is:
1 MB of file takes 1 GB. So larger chunks are inflated once, in pieces, to know their size.
"""

import math
from typing import cast

import h5py
from isal import isal_zlib

from medsam2_ft.errors import UserError

_DEFLATE_ERROR = cast(type[Exception], isal_zlib.error)  # its stub calls the class an instance
_HARMLESS_BYTES = 1 << 16  # inflate to 64 MB at most
_PIECE_BYTES = 1 << 20
_CHECKSUM_BYTES = 64  # that other filters may add to a chunk before it is deflated


def check_chunks(where: str, dataset: h5py.Dataset) -> None:
    """Inflates the deflated chunks of a data set, and keeps nothing of them.

    Args:
        where: Name for messages.
        dataset: A data set in chunks.

    Raises:
        UserError: A chunk is larger than declared, or several deflate filters stand in a row.
        OSError: The file is damaged; as h5py raises it.
        ValueError: A chunk is damaged.
    """
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
    if h5py.h5z.FILTER_DEFLATE not in filters:
        return
    position = filters.index(h5py.h5z.FILTER_DEFLATE)
    if set(filters[position + 1 :]) - {h5py.h5z.FILTER_FLETCHER32}:
        raise UserError(f"{where} is compressed in several ways at once; save it with gzip alone")
    limit = math.prod(dataset.chunks) * dataset.dtype.itemsize + _CHECKSUM_BYTES
    for index in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(index)
        if chunk.size <= _HARMLESS_BYTES or chunk.filter_mask & 1 << position:
            continue
        _, data = dataset.id.read_direct_chunk(chunk.chunk_offset)
        if _inflated(data, limit) > limit:
            raise UserError(
                f"{where} has a chunk that inflates to more than its {limit} bytes; the file is "
                "damaged or made to exhaust memory: make it again"
            )


def _inflated(data: bytes, limit: int) -> int:
    """Size of a deflated text; only whether it is above ``limit`` is certain."""
    inflater = isal_zlib.decompressobj()
    grown = 0
    try:
        while data and not inflater.eof and grown <= limit:
            grown += len(inflater.decompress(data, _PIECE_BYTES))
            data = inflater.unconsumed_tail
    except _DEFLATE_ERROR as error:
        raise ValueError(f"a chunk is damaged: {error}") from error
    return grown
