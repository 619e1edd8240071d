"""How the values of a mask file become label ids."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelValues:
    """How the values of a mask file become label ids.

    Attributes:
        form: ``ids``: every value is a label id. ``binary``: everything above ``threshold`` is
            label 1 (lossy JPEG masks, probability maps). ``colours``: ``legend`` names the ids.
            ``channels``: channel i (from 0) of the last axis is label i + 1 where it is not 0;
            channels may overlap. ``auto`` decides by the file: one gray value besides the
            background is label 1 in an 8-bit picture, a lossy picture with two clusters of values
            is thresholded between them, a 4-D volume of zeros and ones is ``channels``, and what
            could be read in two ways is refused.
        threshold: For ``binary``; None: the middle of the file's range.
        background: Values (of ``ids``) that are no label, such as 64.
        legend: Colour (r, g, b) -> label id; id 0 is background. A colour that is not listed is
            an error, unless it lies within ``tolerance`` of one that is.
        tolerance: Largest difference per channel at which a colour is still taken for a listed
            one.
        parts: What several files of one image are: ``objects``: file i is one instance, with ids
            1, 2, ... in the order of the names; ``labels``: each file is a label with the file's
            stem as its name, ids 1, 2, ... in the order of ``part_names``, or of the names.
        part_names: Names in the order of their ids, for ``parts: labels``.
        key: Path of the data set inside an HDF5 file, if it is not found by its name.
    """

    form: Literal["auto", "ids", "binary", "colours", "channels"] = "auto"
    threshold: float | None = None
    background: tuple[float, ...] = (0.0,)
    legend: Mapping[Colour, int] = field(default_factory=dict)
    tolerance: int = 0
    parts: Literal["objects", "labels"] = "labels"
    part_names: tuple[str, ...] = ()
    key: str | None = None


AUTO = LabelValues()
