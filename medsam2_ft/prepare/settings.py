"""What the command line says about how cases are made, checked before anything is read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import rule_for_modality
from medsam2_ft.prepare.cleanup import Cleanup
from medsam2_ft.prepare.manifest import FORMAT
from medsam2_ft.types import Modality


@dataclass(frozen=True)
class Settings:
    """What a case depends on besides its source files.

    Attributes:
        modality: Modality of every image of this input.
        window: ``window`` of ``rule_for_modality``; None for the modality's own rule.
        cleanup: Label clean-up.
        label_names: Names of label ids; they win over those in the label files.
        regions: Nested targets: name -> label ids.
    """

    modality: Modality
    window: str | None = None
    cleanup: Cleanup = field(default_factory=Cleanup)
    label_names: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as plain JSON types, and the version of the rules behind them."""
        content: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(self)}))
        return content


def make_settings(
    modality: Modality,
    window: str | None,
    cleanup: Cleanup,
    label_names: Path | None,
) -> Settings:
    """Checks the options and reads the label names.

    Raises:
        UserError: An option is out of range, two options contradict each other, or the file of
            label names cannot be used.
    """
    window = None if window is None else window.replace(",", "/")
    rule_for_modality(modality, window)  # complains about a window that is not understood
    for name in ("min_voxels_3d", "min_pixels_2d"):
        if getattr(cleanup, name) < 0:
            raise UserError(f"--{name} is {getattr(cleanup, name)}; it must be 0 or more")
    for name in ("drop_labels", "instances_of"):
        bad = [label for label in getattr(cleanup, name) if label < 1]
        if bad:
            raise UserError(f"--{name} names label {bad[0]}; label ids start at 1")
    both = set(cleanup.drop_labels) & set(cleanup.instances_of)
    if both:
        raise UserError(f"label {min(both)} is in --drop_labels and in --instances_of; choose one")
    names, regions = ({}, {}) if label_names is None else read_label_names(label_names)
    return Settings(modality, window, cleanup, names, regions)


def read_label_names(path: Path) -> tuple[dict[int, str], dict[str, tuple[int, ...]]]:
    """Reads names of labels and regions from JSON or YAML.

    Args:
        path: A mapping ``{1: liver, 2: tumour}``, or ``{liver: 1, tumour: 2}``, or either under a
            key ``labels`` (nnU-Net's ``dataset.json``). A name with a list of ids is a region:
            ``{whole liver: [1, 2]}``. The background, id 0, is passed over.

    Returns:
        Names by label id, and ids by region.

    Raises:
        UserError: The file cannot be read or is no such mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: the label names cannot be read ({error})") from error
    if isinstance(content, dict) and isinstance(content.get("labels"), dict):
        content = content["labels"]
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: must map label ids to names, such as {{1: liver, 2: tumour}}")
    names: dict[int, str] = {}
    regions: dict[str, tuple[int, ...]] = {}
    for key, value in content.items():
        entry = _label_entry(key, value)
        if entry is None:
            raise UserError(
                f"{path}: {key!r}: {value!r} is neither 'id: name' nor 'name: id' nor "
                "'region: [ids]'"
            )
        name, ids = entry
        if isinstance(ids, tuple):
            regions[name] = ids
        elif ids > 0 and names.setdefault(ids, name) != name:
            raise UserError(f"{path}: label {ids} has two names, {names[ids]} and {name}")
    return names, regions


def _label_entry(key: object, value: object) -> tuple[str, int | tuple[int, ...]] | None:
    """One entry as (name, id) or (region, ids); None where it is neither."""
    if isinstance(value, list):
        ids = tuple(label for label in value if _is_id(label) and label > 0)
        return (str(key), ids) if ids and len(ids) == len(value) else None
    if isinstance(value, str) and str(key).isdecimal():
        return value, int(str(key))
    if _is_id(value):
        return str(key), int(str(value))
    return None


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def cleanup_from(
    drop_labels: Sequence[int] | None,
    instances_of: Sequence[int] | None,
    min_voxels_3d: int,
    min_pixels_2d: int,
) -> Cleanup:
    """Builds the clean-up rules; repeated ids count once, their order does not matter."""
    return Cleanup(
        drop_labels=tuple(sorted(set(drop_labels or ()))),
        instances_of=tuple(sorted(set(instances_of or ()))),
        min_voxels_3d=min_voxels_3d,
        min_pixels_2d=min_pixels_2d,
    )
