"""What the command line says about how cases are made, checked before anything is read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import rule_for_modality
from medsam2_ft.io.checks import MAX_LABEL_ID
from medsam2_ft.io.label_values import AUTO, LabelValues
from medsam2_ft.io.orient import Slices
from medsam2_ft.prepare.cleanup import Cleanup
from medsam2_ft.prepare.label_names import read_label_names
from medsam2_ft.prepare.label_rules import LabelRules, read_label_rules
from medsam2_ft.prepare.manifest import FORMAT
from medsam2_ft.types import Modality


@dataclass(frozen=True)
class Settings:
    """What a case depends on besides its source files.

    Attributes:
        modality: Modality of every image of this input; None: as each file says.
        window: ``window`` of ``rule_for_modality``; None for the modality's own rule.
        cleanup: Label clean-up.
        label_names: Names of label ids; they win over those in the label files.
        regions: Nested targets: name -> label ids.
        values: How the values of label files become ids.
        image_key: Path of the image inside an HDF5 file, if it is not found by its name.
        slices: Which way slices lie.
        channel: Which channel or time point of 4-D images is taken.
        video: Whether the third axis of volumes is time.
    """

    modality: Modality | None
    window: str | None = None
    cleanup: Cleanup = field(default_factory=Cleanup)
    label_names: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    values: LabelValues = AUTO
    image_key: str | None = None
    slices: Slices = "stored"
    channel: int | None = None
    video: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as plain JSON types, and the version of the rules behind them."""
        content = {"format": FORMAT, **asdict(self)}
        legend = {f"#{r:02x}{g:02x}{b:02x}": i for (r, g, b), i in self.values.legend.items()}
        content["values"] = asdict(replace(self.values, legend={})) | {"legend": legend}
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain


def make_settings(
    modality: Modality | None,
    window: str | None,
    cleanup: Cleanup,
    label_names: Path | None,
    label_rules: Path | Mapping[str, Any] | None = None,
    slices: Slices = "stored",
    channel: int | None = None,
    video: bool = False,
) -> Settings:
    """Checks the options, reads the label rules and the label names.

    Args:
        modality: Of every image; None: as each file says.
        window: ``window`` of ``rule_for_modality``.
        cleanup: From the options; each that is given replaces the rule of the file.
        label_names: See ``read_label_names``; these names win over those of the rules.
        label_rules: See ``read_label_rules``.
        slices: Which way slices lie.
        channel: Which channel or time point of 4-D images is taken, from 0.
        video: Whether the third axis of volumes is time.

    Raises:
        UserError: An option is out of range, two options contradict each other, or a file cannot
            be used.
    """
    window = None if window is None else window.replace(",", "/")
    rule_for_modality(modality, window)  # complains about a window that is not understood
    rules = LabelRules() if label_rules is None else read_label_rules(label_rules)
    cleanup = joined(rules.cleanup, cleanup)
    check_cleanup(cleanup)
    if channel is not None and channel < 0:
        raise UserError(f"--channel is {channel}; channels are counted from 0")
    if video and slices != "stored":
        raise UserError(f"--video and --slices {slices} contradict each other; choose one")
    names, regions = ({}, {}) if label_names is None else read_label_names(label_names)
    return Settings(
        modality=modality,
        window=window,
        cleanup=cleanup,
        label_names={**rules.names, **names},
        regions={**rules.regions, **regions},
        values=rules.values,
        image_key=rules.image_key,
        slices=slices,
        channel=channel,
        video=video,
    )


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


def joined(file: Cleanup, options: Cleanup) -> Cleanup:
    """Returns the clean-up of a file, with those of its rules replaced that an option gives."""
    default = Cleanup()
    chosen = {
        name: getattr(file if getattr(options, name) == getattr(default, name) else options, name)
        for name in (entry.name for entry in fields(Cleanup))
    }
    return Cleanup(**chosen)


def check_cleanup(rules: Cleanup) -> None:
    """Makes sure that the rules agree with each other.

    Raises:
        UserError: An id or size out of range, or two rules that contradict each other.
    """
    for name in ("min_voxels_3d", "min_pixels_2d"):
        if getattr(rules, name) < 0:
            raise UserError(f"--{name} is {getattr(rules, name)}; it must be 0 or more")
    merged = [label for ids in rules.merge.values() for label in ids]
    listed = {
        "--drop_labels": rules.drop_labels,
        "--instances_of": rules.instances_of,
        "keep": rules.keep or (),
        "merge": (*rules.merge, *merged),
        "ids_by_name": tuple(rules.ids_by_name.values()),
    }
    for name, ids in listed.items():
        bad = [label for label in ids if not 1 <= label <= MAX_LABEL_ID]
        if bad and bad[0] < 1:
            raise UserError(f"{name} names label {bad[0]}; label ids start at 1")
        if bad:
            raise UserError(f"{name} names label {bad[0]}; label ids end at {MAX_LABEL_ID}")
    if rules.ids_by_name and (rules.keep is not None or rules.drop_labels or rules.merge):
        raise UserError(
            "ids_by_name says already which labels stay and what they become; leave keep, drop, "
            "merge and --drop_labels out"
        )
    _check_merge(rules, merged)
    _check_dropped(rules, merged)


def _check_merge(rules: Cleanup, merged: Sequence[int]) -> None:
    twice = [label for label in merged if merged.count(label) > 1]
    if twice:
        raise UserError(f"merge puts label {twice[0]} into two labels; choose one")
    for new, ids in rules.merge.items():
        if new in (rules.keep or ()) and new not in merged:
            raise UserError(
                f"merge makes label {new}, which keep lists as a label of the file; list it among "
                f"the merged ids ({new}: {sorted([new, *ids])}) or choose another id"
            )


def _check_dropped(rules: Cleanup, merged: Sequence[int]) -> None:
    dropped = set(rules.drop_labels)
    for name, ids in (("keep", rules.keep or ()), ("merge", merged)):
        both = dropped & set(ids)
        if both:
            raise UserError(f"label {min(both)} is in --drop_labels and in {name}; choose one")
    if rules.keep is not None and not set(merged) <= set(rules.keep):
        lost = min(set(merged) - set(rules.keep))
        raise UserError(
            f"label {lost} is in merge but not in keep; add it to keep, or leave it out"
        )
    made = set(rules.merge)
    for label in rules.instances_of:
        if label in dropped - made:
            raise UserError(f"label {label} is in --drop_labels and in --instances_of; choose one")
        if label in set(merged) - made:
            raise UserError(
                f"label {label} of --instances_of is merged into another; name that one"
            )
        if rules.keep is not None and label not in made and label not in rules.keep:
            raise UserError(f"label {label} of --instances_of is not in keep; add it to keep")
