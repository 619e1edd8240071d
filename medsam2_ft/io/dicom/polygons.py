"""Which pixel centres lie inside a closed contour.

Libraries that draw polygons (Pillow, OpenCV, Matplotlib) round vertices to pixels or include the
outline. Contours of a structure set are in fractions of a pixel, and a pixel belongs to a region
where its centre does; this is the rule that reproduces the masks of published benchmarks.
"""

import numpy as np
from numpy.typing import NDArray

_PAIRS_AT_ONCE = 1 << 20


def toggle_polygon(plane: NDArray[np.bool_], points_xy: NDArray[np.float64]) -> None:
    """Inverts the pixels of a plane whose centres lie inside a closed polygon (even-odd rule).

    Drawn into one plane, a contour inside another one makes a hole. Pixel (x, y) has its centre
    at (x, y). A centre exactly on the outline counts on the left and upper sides and not on
    the right and lower ones: of two polygons that share an edge, exactly one holds it.

    Args:
        plane: ``(y, x)``, changed in place.
        points_xy: ``(n, 2)`` finite vertices in pixels; the last is joined to the first.
    """
    height, width = plane.shape
    x0, y0 = points_xy.T
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    # An edge crosses the rows with lower <= row < upper.
    first = np.clip(np.ceil(np.minimum(y0, y1)), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1)), 0, height).astype(np.int64)
    edges = np.flatnonzero(last > first)
    if not edges.size:
        return
    top, bottom = int(first[edges].min()), int(last[edges].max())
    left, right = (int(np.clip(np.ceil(x), 0, width)) for x in (x0.min(), x0.max()))
    toggles = np.zeros((bottom - top, right - left + 1), np.bool_)
    ends = np.cumsum(last[edges] - first[edges])
    parts = np.searchsorted(ends, np.arange(_PAIRS_AT_ONCE, ends[-1], _PAIRS_AT_ONCE))
    for some in np.split(edges, np.unique(parts)):
        counts = last[some] - first[some]
        if not counts.size:
            continue
        edge = np.repeat(some, counts)
        rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - first[some], counts)
        slope = (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
        crossing = x0[edge] + (rows - y0[edge]) * slope
        # Pixels from the crossing to the right change sides.
        columns = np.clip(np.ceil(crossing), left, right).astype(np.int64)
        np.logical_xor.at(toggles, (rows - top, columns - left), True)
    inside = np.logical_xor.accumulate(toggles, axis=1)[:, :-1]
    plane[top:bottom, left:right] ^= inside
