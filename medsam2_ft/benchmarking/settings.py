"""What the scores of a benchmark depend on besides data and weights."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from medsam2_ft.errors import UserError
from medsam2_ft.types import MODALITIES

Kind = Literal["2D", "3D", "video"]
KINDS: tuple[Kind, ...] = ("2D", "3D", "video")
UNKNOWN_MODALITY = "unknown"
FORMAT = 1
"""Grows when the same input gives other scores: then nothing earlier is taken over."""


@dataclass(frozen=True)
class Settings:
    """Prompts and scoring; the same for all models that are compared.

    Attributes:
        protocol: How boxes become masks in volumes and videos, see ``volume_prompts``.
        z_range: Segment and score the object's own slices (``object``) or all (``full``).
        margin_px: Margin around prompt boxes in pixels of a 1024 input.
        box_noise_px: Each side of a prompt box moves by up to this many pixels of a 1024 input.
        seed: Of the box noise.
        tolerance_mm: Of the NSD in volumes.
        tolerance_px: Of the NSD in images and videos.
        regions: Whether regions are objects beside the labels that make them up.
        tolerances: By modality, in the unit of the case's kind; before the two above.
    """

    protocol: Literal["middle", "paper"] = "middle"
    z_range: Literal["object", "full"] = "object"
    margin_px: float = 5.0
    box_noise_px: int = 0
    seed: int = 0
    tolerance_mm: float = 2.0
    tolerance_px: float = 2.0
    regions: bool = False
    tolerances: Mapping[str, float] = field(default_factory=dict)

    def tolerance(self, kind: Kind, modality: str) -> float:
        """Returns the NSD's tolerance: mm in volumes, pixels in images and videos."""
        default = self.tolerance_mm if kind == "3D" else self.tolerance_px
        return self.tolerances.get(modality, default)

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as plain JSON types."""
        return {"format": FORMAT, **asdict(self), "tolerances": dict(self.tolerances)}

    def fingerprint(self) -> str:
        """Returns a short digest: scores of other settings are not taken over."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def unit_of(kind: Kind) -> str:
    """Returns the unit of distances: an image or a frame of a video may have no millimetres."""
    return "mm" if kind == "3D" else "px"


def parse_tolerances(text: str) -> dict[str, float]:
    """Reads ``CT=2,endoscopy=3``.

    Args:
        text: Modalities with numbers; empty for none.

    Raises:
        UserError: An unknown modality, one that is given twice, or no positive number.
    """
    known = {name.lower(): name for name in (*MODALITIES, UNKNOWN_MODALITY)}
    found: dict[str, float] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (part.strip() for part in entry.partition("="))
        modality = known.get(name.lower())
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if modality is None or not 0 < value < math.inf or modality in found:
            raise UserError(
                f"--tolerances {entry}: give each modality once, as in CT=2,endoscopy=3; the "
                f"modalities are {', '.join(known.values())}"
            )
        found[modality] = value
    return found


def check_settings(settings: Settings) -> None:
    """Refuses numbers that make no sense.

    Raises:
        UserError: Names the option.
    """
    for name in ("tolerance_mm", "tolerance_px"):
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            raise UserError(f"--{name} is {value}; it must be a positive number")
    if not 0 <= settings.margin_px < math.inf:
        raise UserError(f"--margin_px is {settings.margin_px}; it must be 0 or more")
    if settings.box_noise_px < 0:
        raise UserError(f"--box_noise_px is {settings.box_noise_px}; it must be 0 or more")
    if settings.seed < 0:
        raise UserError(f"--seed is {settings.seed}; it must be 0 or more")
