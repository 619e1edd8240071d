"""How the values of a mask file become label ids."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Colour = tuple[int, int, int]

ZERO_LABEL = 256
"""Label id of the value 0 where another value is the background; no 8-bit picture holds it."""


@dataclass(frozen=True)
class LabelValues:
    """How the values of a mask file become label ids.

    Attributes:
        form: ``ids``: every value is a label id; of a palette picture, its indices are.
            ``binary``: everything above ``threshold`` is label 1 (lossy JPEG masks, probability
            maps). ``colours``: ``legend`` names the ids. ``channels``: channel i (from 0) of the
            last axis is label i + 1 where it is not 0; channels may overlap. ``auto``: a legend
            means ``colours``, a threshold ``binary``, another background than 0 ``ids``;
            otherwise the file decides. A picture of black and white, or of black and one colour,
            is label 1; a gray picture without full white holds ids; a lossy picture of dark and
            bright values is thresholded at 127.5; a 4-D volume of zeros and ones is
            ``channels``, and any other volume holds ids. What could mean two things is refused:
            white beside other gray values, several colours, lossy values between dark and bright,
            channels that fill the volume without overlap (one must be the background).
        threshold: For ``binary``; None: 127.5 in a lossy picture, 0.5 where values are fractions,
            else the middle between 0 and the largest value of the file.
        background: Values (of ``ids``) that are no label, such as 64. Where 0 is not among them it
            is a label like any other, and gets the id ``ZERO_LABEL``, in every file the same.
        legend: Colour (r, g, b) -> label id; id 0 is background. A colour that is not listed is
            an error, unless it lies within ``tolerance`` of one that is. Black is background in a
            legend that lists no id 0.
        tolerance: Largest difference per channel at which a colour is still taken for a listed
            one; of several, the nearest counts.
        parts: What several files of one image are: ``objects``: each file is one instance, with
            ids 1, 2, ... in the natural order of the names (``mask2`` before ``mask10``), empty
            ones passed over; ``labels``: each file is a label with the file's stem as its name.
        part_names: Names in the order of their ids, for ``parts: labels``. Without them the ids
            follow the sorted names of the files at hand, so that an id means the same in every
            case only if every case has a file for every label.
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
