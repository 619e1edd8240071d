"""What the panel's lists offer."""

from collections.abc import Mapping
from typing import Optional

MODALITIES = (
    "CT", "MR", "PET", "ultrasound", "xray", "mammography", "OCT", "microscopy", "dermoscopy",
    "endoscopy", "fundus",
)  # fmt: skip
"""As in docs/protocol.md."""

CT_WINDOWS: Mapping[str, tuple[float, float]] = {
    "CT soft tissue": (-160.0, 240.0),
    "CT lung": (-910.0, 590.0),
    "CT brain": (0.0, 80.0),
    "CT bone": (-500.0, 1300.0),
}
"""Lower and upper; the project's own, by level and width."""

MODEL_WINDOW = "as the model was trained"
SHOWN_WINDOW = "as shown in Slicer"
WINDOWS = (MODEL_WINDOW, SHOWN_WINDOW, *CT_WINDOWS)

NO_MODALITY = "not stated"
MODEL_STRATEGY = "the model's own"
STRATEGIES = (MODEL_STRATEGY, "box", "memory")


def modality_of(text: str) -> Optional[str]:
    """Returns what the server is told of the modality."""
    return text if text in MODALITIES else None


def strategy_of(text: str) -> Optional[str]:
    """Returns what the server is told of the strategy."""
    return text if text in ("box", "memory") else None
