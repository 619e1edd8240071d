"""The cubic resizing of ``skimage.transform.resize``, as two matrix products.

scikit-image smooths an image that gets smaller with a Gaussian of ``(old / new - 1) / 2`` pixels,
and interpolates it with cubic B-splines; both are mirrored at the border, linear and separable. So
each axis has a matrix, whose columns come from the functions of scipy that scikit-image calls.
"""

from functools import lru_cache
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

# As scipy's mode "mirror", which scikit-image calls "reflect".
_BORDER: Final = "mirror"


def spline_resize(
    channels: UInt8[np.ndarray, "c h w"], size: int, device: torch.device
) -> UInt8[Tensor, "c {size} {size}"]:
    """Stretches an image to a square, for MedSAM.

    What ``skimage.transform.resize(image, (size, size), order=3, preserve_range=True,
    anti_aliasing=True).astype(np.uint8)`` gives: limited to the image's own range, fractions cut
    off. Values that are whole but for rounding may come out one lower there or here.

    Args:
        channels: Any number of channels.
        size: Side of the square in pixels.
        device: Where the result goes, and where it is computed if float64 is to be had there.
    """
    place = torch.device("cpu") if device.type == "mps" else device
    image = torch.from_numpy(np.ascontiguousarray(channels)).to(place, torch.float64)
    rows, columns = (torch.from_numpy(_matrix(side, size)).to(place) for side in channels.shape[1:])
    resized = rows @ image @ columns.T
    return resized.clamp_(image.min(), image.max()).to(torch.uint8).to(device)


@lru_cache(maxsize=8)
def _matrix(old: int, new: int) -> NDArray[np.float64]:
    """The resizing of one axis, ``(new, old)``: column ``i`` is what becomes of a one at ``i``."""
    sigma = max(0.0, (old / new - 1) / 2)
    matrix = np.empty((new, old))
    for index in range(old):
        unit = np.zeros(old)
        unit[index] = 1.0
        smooth = ndimage.gaussian_filter1d(unit, sigma, mode=_BORDER) if sigma else unit
        matrix[:, index] = ndimage.zoom(smooth, new / old, order=3, mode=_BORDER, grid_mode=True)
    return matrix
