"""Which intensity rule an image gets, by what its file holds."""

from typing import Any

from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import rule_for_modality
from medsam2_ft.types import IntensityRule


def rule_for_image(
    array: NDArray[Any], modality: str | None, window: str | None
) -> tuple[IntensityRule, list[str]]:
    """Chooses the rule for one image: that of its modality, unless it holds 0-255 already.

    Args:
        array: ``(z, y, x)`` as stored, or ``(z, y, x, 3)`` colour.
        modality: One of ``MODALITIES``, None where it is not known.
        window: See ``rule_for_modality``.

    Returns:
        The rule, and notes.

    Raises:
        UserError: A window for colour, or as ``rule_for_modality``.
    """
    if array.ndim == 4:
        if window is not None:
            raise UserError(
                f"a colour image holds 0-255 already, so that --window {window} cannot apply; "
                "leave it out"
            )
        grayish = modality in ("CT", "MR", "PET")
        return IntensityRule("keep"), [f"{modality} in colour: kept as it is"] if grayish else []
    if modality == "CT" and window is None and array.dtype == "uint8":
        return IntensityRule("keep"), ["CT of type uint8 holds no Hounsfield units: kept as it is"]
    return rule_for_modality(modality, window, array.dtype), []
