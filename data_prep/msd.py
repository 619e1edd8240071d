"""Medical Segmentation Decathlon: ``dataset.json`` says modality, sequences and label names."""

import json
from pathlib import Path
from typing import Any

from medsam2_ft.errors import UserError

_MODALITIES = {"CT": "CT", "PET": "PET"}  # everything else that occurs is a sequence of MR


def inputs(source: Path, work: Path) -> list[dict[str, Any]]:
    """Makes one input for each task and sequence.

    Args:
        source: The folder of one task, or a folder of several.
        work: Not used.

    Returns:
        Options of ``prepare``; sequences of a 4-D image are its channels.

    Raises:
        UserError: There is no ``dataset.json``, or it is not valid.
    """
    del work
    descriptions = sorted([*source.glob("dataset.json"), *source.glob("*/dataset.json")])
    if not descriptions:
        raise UserError(
            f"{source}: holds no dataset.json; give the folder of a task, such as Task09_Spleen"
        )
    return [entry for path in descriptions for entry in _task_inputs(path)]


def _task_inputs(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sequences = [str(content["modality"][str(i)]) for i in range(len(content["modality"]))]
        names = {int(key): str(name) for key, name in content["labels"].items() if int(key)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: is not the dataset.json of the decathlon ({type(error).__name__}: {error}); "
            "unpack the task again"
        ) from error
    several = len(sequences) > 1
    return [
        {
            "images": path.parent,
            "labels": path.parent,
            "image_glob": "imagesTr/{case}.nii.gz",
            "label_glob": "labelsTr/{case}.nii.gz",
            "modality": _MODALITIES.get(sequence, "MR"),
            "label_rules": {"names": names},
            "group": r"(?:BRATS|prostate)_\d+" if several else None,
            **({"channel": i, "name_prefix": f"{sequence}_"} if several else {}),
        }
        for i, sequence in enumerate(sequences)
    ]
