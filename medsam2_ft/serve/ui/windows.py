"""Choices of modality and intensity window, from the project's rules."""

from typing import Final

from medsam2_ft.intensity import CT_WINDOWS, rule_for_modality
from medsam2_ft.serve.problems import Problem
from medsam2_ft.types import MODALITIES

AUTOMATIC: Final = "auto"
OWN: Final = "own"
Choices = list[tuple[str, str]]
Number = int | float | None
"""What a field for numbers holds."""


def window_choices() -> Choices:
    """Returns labels and values of the windows."""
    presets = [
        (f"CT {name.replace('_', ' ')} (level {level:g}, width {width:g})", name)
        for name, (level, width) in CT_WINDOWS.items()
    ]
    return [("Automatic: by modality and model", AUTOMATIC), *presets, ("Level and width:", OWN)]


def modality_choices() -> Choices:
    """Returns labels and values of the modalities."""
    return [("As the file says", AUTOMATIC), *((name, name) for name in MODALITIES)]


def chosen(modality: str, window: str, level: Number, width: Number) -> dict[str, object]:
    """Returns the fields ``modality`` and ``window`` of a new session.

    A CT window makes the image a CT where nothing else is said.

    Raises:
        Problem: 422, level or width is missing.
        UserError: An unknown window, or a width that is not positive.
    """
    said = None if modality == AUTOMATIC else modality
    if window == AUTOMATIC:
        return {"modality": said, "window": None}
    if window == OWN:
        if level is None or width is None:
            raise Problem(422, "Level and width are missing.", "Give both.")
        rule = rule_for_modality(said, (float(level), float(width)))
        return {"modality": said, "window": [rule.lower, rule.upper]}
    rule = rule_for_modality(said, window)
    return {"modality": said or "CT", "window": [rule.lower, rule.upper]}
