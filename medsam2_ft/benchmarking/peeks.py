"""Single slices of a predicted mask, small enough to be kept with the scores for figures."""

import base64
import zlib

import numpy as np
from jaxtyping import Bool


def pack_mask(mask: Bool[np.ndarray, "h w"]) -> str:
    """Returns a mask as text: its bits, deflated, in base 64; about 1 kB at 512 x 512."""
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode("ascii")


def unpack_mask(text: str, hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Turns the text back into a mask.

    Args:
        text: From ``pack_mask``.
        hw: Height and width of the mask.

    Raises:
        ValueError: The text is damaged, or belongs to a mask of another size.
    """
    count = hw[0] * hw[1]
    expected = (count + 7) // 8
    inflater = zlib.decompressobj()
    try:
        packed = inflater.decompress(base64.b64decode(text, validate=True), expected + 1)
    except zlib.error as error:
        raise ValueError(f"a packed mask is damaged: {error}") from error
    if len(packed) != expected or not inflater.eof:
        raise ValueError(f"a packed mask has not {expected} bytes, or not all of them")
    bits = np.frombuffer(packed, np.uint8)
    return np.unpackbits(bits, count=count).view(np.bool_).reshape(hw)
