"""Frozen data types and the conventions that the whole package follows. Nothing else.

* Arrays are ``(z, y, x)``, colour ``(z, y, x, 3)``; a 2D image has ``z == 1``; a video has frames
  for ``z``.
* ``spacing_mm`` is in array order ``(z, y, x)``; ``origin_mm`` and ``direction`` are ITK's: world
  is LPS, the origin is ``(x, y, z)``, the direction is row-major and its columns are the x, y and
  z axes. Files that store ``(x, y, z)`` spacing are turned at the io edge and nowhere else.
* ``box_xyxy`` is SAM's own convention: float32 corner pixel *indices*, inclusive (``x1`` is the
  last column), so a one-pixel mask gives ``x0 == x1``. 3D boxes are ``x0, y0, z0, x1, y1, z1``,
  inclusive too.
* ``*_logits``, ``*_prob`` and ``*_mask`` say what a tensor holds; axes are batch ``b``, prompts
  ``n``, frames ``t``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Modality = Literal[
    "CT",
    "MR",
    "PET",
    "ultrasound",
    "xray",
    "dermoscopy",
    "endoscopy",
    "fundus",
    "mammography",
    "OCT",
    "microscopy",
]
MODALITIES: tuple[str, ...] = get_args(Modality)

IDENTITY_DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Geometry:
    """Where a voxel grid lies in the world.

    Attributes:
        spacing_mm: Voxel size in mm in array order (z, y, x), each > 0.
        origin_mm: LPS world position (x, y, z) in mm of the centre of voxel (0, 0, 0).
        direction: Row-major 3x3 direction cosines as in ITK; columns are the x, y and z axes.
    """

    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY_DIRECTION


@dataclass(frozen=True)
class Volume:
    """An image as it was read.

    Attributes:
        array: ``(z, y, x)`` or ``(z, y, x, 3)``, any real dtype, finite.
        geometry: The grid of ``array``.
        has_geometry: Whether the file says where the grid lies; a PNG does not, nor does a video.
        is_video: Whether the first axis is time.
        modality: One of ``MODALITIES``, where the file says so.
        notes: What the reader had to decide or found odd, a sentence each.
    """

    array: NDArray[Any]
    geometry: Geometry = field(default_factory=Geometry)
    has_geometry: bool = True
    is_video: bool = False
    modality: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelVolume:
    """Segmentation of one image.

    Attributes:
        maps: One or more ``(z, y, x)`` unsigned maps, 0 = background. A second map holds what
            overlaps the first. A label id occurs in one map only.
        label_names: Names of the label ids, for those that have one.
        geometry: The grid of the maps.
        has_geometry: Whether the file says where the grid lies.
        notes: What the reader had to decide or found odd, a sentence each.
    """

    maps: tuple[NDArray[Any], ...]
    label_names: Mapping[int, str] = field(default_factory=dict)
    geometry: Geometry = field(default_factory=Geometry)
    has_geometry: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class IntensityRule:
    """How source intensities became 0-255; stored with a case so that inference does the same.

    Attributes:
        kind: ``window`` maps [lower, upper] (source units) to 0-255; ``percentile`` clips to the
            [lower, upper] percentiles of the non-zero voxels and keeps zero at zero; ``minmax``
            maps the volume's own range; ``keep`` leaves uint8 as it is.
        lower: Window bound or percentile; unused for ``minmax`` and ``keep``.
        upper: Window bound or percentile; unused for ``minmax`` and ``keep``.
    """

    kind: Literal["window", "percentile", "minmax", "keep"]
    lower: float = 0.0
    upper: float = 0.0

    def to_json(self) -> str:
        """Returns the rule as one line of JSON, the form in which files store it."""
        return json.dumps({"kind": self.kind, "lower": self.lower, "upper": self.upper})


@dataclass(frozen=True)
class Case:
    """One npz case: what training, evaluation and inference read.

    Attributes:
        name: File stem.
        image: uint8 ``(z, y, x)`` or ``(z, y, x, 3)``.
        label_maps: Unsigned ``(z, y, x)`` maps, empty where the case has no labels; further maps
            hold overlaps.
        geometry: The grid.
        modality: One of ``MODALITIES``, or None where it is not known.
        label_names: Names of label ids.
        regions: Nested targets: name -> label ids that make it up.
        intensity: The rule that made the 0-255 values, None where it is not known.
        boxes: ``(n, 4)`` or ``(n, 6)`` float32 prompt boxes stored with the case, or None.
        box_labels: Label id of each row of ``boxes``.
        is_video: Whether the first axis is time.
    """

    name: str
    image: NDArray[np.uint8]
    label_maps: tuple[NDArray[Any], ...] = ()
    geometry: Geometry = field(default_factory=Geometry)
    modality: str | None = None
    label_names: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    intensity: IntensityRule | None = None
    boxes: NDArray[np.float32] | None = None
    box_labels: tuple[int, ...] = ()
    is_video: bool = False
