"""One array from slices that come one at a time and may need different types."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_INTEGERS = (np.int16, np.uint16, np.int32)


class Assembly:
    """An array that takes slices in any order and is widened only where a value asks for it.

    Rescaled integers come as int32 and are held as int16 where they fit, as those of a CT do.
    """

    def __init__(self, slices: int) -> None:
        """Takes no memory before the first slice comes."""
        self._slices = slices
        self._array: NDArray[Any] | None = None
        self._filled = np.zeros(slices, np.bool_)

    @property
    def array(self) -> NDArray[Any]:
        """``(z, y, x)`` or ``(z, y, x, 3)``; every slice has been put."""
        if self._array is None or not self._filled.all():
            raise RuntimeError("a slice was not put")
        return self._array

    def put(self, z: int, values: NDArray[Any]) -> bool:
        """Stores a slice; False, and nothing stored, where another one with other values is there.

        Every slice has the same shape.
        """
        dtype = _narrow_type(values)
        if self._array is None:
            self._array = np.empty((self._slices, *values.shape), dtype)
        if self._filled[z]:
            return np.array_equal(self._array[z], values)
        held = self._array.dtype
        if dtype != held:
            wide = _common_type(held, dtype)
            if wide != held:
                self._array = self._array.astype(wide)
        self._array[z] = values
        self._filled[z] = True
        return True


def _narrow_type(values: NDArray[Any]) -> np.dtype[Any]:
    if values.dtype != np.int32:
        return values.dtype.newbyteorder("=")
    low, high = int(values.min()), int(values.max())
    fitting = (t for t in _INTEGERS if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return np.dtype(next(fitting))


def _common_type(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """The smallest type that holds both; float32 stays float32 beside integers of 16 bits."""
    return np.promote_types(a, b)
