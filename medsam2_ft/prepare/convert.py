"""Turns an image and its labels into a case."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import apply_rule
from medsam2_ft.io import file_suffix, read_volume
from medsam2_ft.io.npz import read_case
from medsam2_ft.io.orient import THICK_RATIO, Turn, thickest_axis, turn_for
from medsam2_ft.prepare.gray import rule_for_image
from medsam2_ft.prepare.labels import (
    Cleaned,
    NoLabelsError,
    clean,
    expect_labels,
    labels_on_grid,
    names_of,
    regions_of,
    rules_for,
)
from medsam2_ft.prepare.pairing import Pair
from medsam2_ft.prepare.settings import Settings
from medsam2_ft.types import Case, Geometry, IntensityRule, LabelVolume, Volume

__all__ = ["MIN_GRAY_LEVELS", "NoLabelsError", "make_case"]

MIN_GRAY_LEVELS = 8
"""A windowed image that spans fewer gray levels is refused: the window misses its values."""

_SHOWN = 8  # how many ids a message names


def make_case(pair: Pair, settings: Settings) -> tuple[Case, dict[str, Any]]:
    """Reads and converts one case, without writing it.

    Args:
        pair: Source files.
        settings: How.

    Returns:
        The case, and the fields of its ``Record`` that describe it.

    Raises:
        UserError: Bad input.
        NoLabelsError: The case has no labels.
    """
    if pair.problem:
        raise UserError(pair.problem)
    stored = _stored_case(pair, settings)
    expect_labels(pair, stored)
    case, labels, notes = _read(pair, settings, stored)
    file_names = labels.label_names
    label_file = (pair.label or pair.image).path
    cleaned = clean(labels.maps, rules_for(settings.cleanup, file_names, str(label_file)))
    if not cleaned.maps:
        raise NoLabelsError(_nothing_left(cleaned))
    case = replace(
        case,
        label_maps=cleaned.maps,
        label_names=names_of(file_names, settings, cleaned),
        regions=regions_of({} if stored is None else stored.regions, settings, cleaned),
    )
    if stored is not None and stored.boxes is not None:
        same_grid = case.geometry == stored.geometry
        if pair.label is None and not cleaned.changed and same_grid:
            case = replace(case, boxes=stored.boxes, box_labels=stored.box_labels)
        else:
            notes.append(
                "boxes stored with the case are left out, for its labels or axes have changed"
            )
    return case, _details(case, cleaned, notes)


def _nothing_left(cleaned: Cleaned) -> str:
    labels = sorted({drop.label for drop in cleaned.drops})
    shown = ", ".join(map(str, labels[:_SHOWN])) + (", ..." if labels[_SHOWN:] else "")
    rules = ", ".join(dict.fromkeys(drop.rule for drop in cleaned.drops))
    return f"the label clean-up left nothing of label {shown} (rules {rules})"


def _stored_case(pair: Pair, settings: Settings) -> Case | None:
    """The npz case that the image file is, if it is one."""
    if file_suffix(pair.image.path) != ".npz":
        return None
    if settings.window is not None:
        raise UserError(
            f"{pair.image.path}: npz images are 0-255 already, so that --window {settings.window} "
            "cannot apply; leave it out, or prepare the original volumes"
        )
    if settings.channel is not None:
        raise UserError(
            f"{pair.image.path}: npz images have one channel or three colours, so that --channel "
            f"{settings.channel} cannot apply; leave it out"
        )
    return read_case(pair.image.path)


def _read(
    pair: Pair, settings: Settings, stored: Case | None
) -> tuple[Case, LabelVolume, list[str]]:
    """The case without labels, the labels as the file has them on its grid, and notes."""
    if stored is None:
        source = read_volume(pair.image.source, settings.image_key, settings.channel)
    else:
        known = stored.geometry != Geometry()
        source = Volume(stored.image, stored.geometry, known, stored.is_video, stored.modality)
    modality, notes = _modality(pair, settings, source.modality, from_npz=stored is not None)
    notes = [*source.notes, *notes]
    labels = labels_on_grid(pair, settings, stored, source)
    notes += labels.notes
    if stored is None:
        gray, rule, more = _gray(source.array, settings, modality)
        notes += more
    else:
        gray, rule = stored.image, stored.intensity or IntensityRule("keep")
    # lets go of the stored values, which are wider than the gray ones
    source = replace(source, array=gray, is_video=source.is_video or settings.video)
    turn, more = _turn(source, settings)
    case = Case(
        name=pair.name,
        image=np.ascontiguousarray(turn.array(gray)),
        geometry=turn.geometry(source.geometry, source.array.shape),
        modality=modality,
        intensity=rule,
        is_video=source.is_video,
    )
    maps, labels = list(labels.maps), replace(labels, maps=())
    turned = []
    while maps:  # one at a time, so that no map is held twice
        turned.append(np.ascontiguousarray(turn.array(maps.pop(0))))
    return case, replace(labels, maps=tuple(turned), geometry=case.geometry), [*notes, *more]


def _modality(
    pair: Pair, settings: Settings, stated: str | None, *, from_npz: bool
) -> tuple[str, list[str]]:
    """The modality that counts, and a note where an npz file states another one."""
    path, wanted = pair.image.path, settings.modality
    if wanted is None and stated is None:
        raise UserError(f"{path}: does not say its modality; give --modality")
    if wanted is None or stated in (None, wanted):
        return str(wanted or stated), []
    if from_npz:
        return wanted, [f"the file says {stated}; --modality {wanted} was used"]
    raise UserError(
        f"{path}: is {stated} by its header, not {wanted}; leave --modality out, or prepare the "
        f"{stated} images apart with --modality {stated}"
    )


def _gray(
    array: NDArray[Any], settings: Settings, modality: str
) -> tuple[NDArray[np.uint8], IntensityRule, list[str]]:
    """The 0-255 image, the rule that made it, and notes."""
    rule, notes = rule_for_image(array, modality, settings.window)
    gray = apply_rule(array, rule)
    _check_contrast(gray, array, rule)
    return gray, rule, notes


def _check_contrast(gray: NDArray[np.uint8], source: NDArray[Any], rule: IntensityRule) -> None:
    span = int(gray.max()) - int(gray.min())
    if span < (MIN_GRAY_LEVELS if rule.kind == "window" else 1):
        shown = f"window {rule.lower:g} to {rule.upper:g}" if rule.kind == "window" else rule.kind
        raise UserError(
            f"values {source.min():g} to {source.max():g} become a blank image under the "
            f"rule '{shown}'; check --modality and --window, or remove the file"
        )


def _turn(source: Volume, settings: Settings) -> tuple[Turn, list[str]]:
    """How the case's axes follow from the file's, and notes; a single slice is never turned."""
    if source.array.shape[0] == 1:
        return Turn(), []
    if source.is_video or not source.has_geometry:
        what = "a video has" if source.is_video else "the file states"
        unknown = f"--slices {settings.slices} left the slices as stored: {what} no directions"
        return Turn(), [] if settings.slices == "stored" else [unknown]
    spacing = source.geometry.spacing_mm
    if settings.slices == "stored" and max(spacing) > THICK_RATIO * spacing[0]:
        shown = " ".join(f"{value:.3g}" for value in spacing)
        axis = "zyx"[thickest_axis(source.geometry)]
        note = (
            f"the stored slices do not lie across the thickest axis, {axis} (spacing z y x "
            f"{shown} mm); --slices thickest turns them"
        )
        return Turn(), [note]
    return turn_for(source.geometry, settings.slices), []


def _details(case: Case, cleaned: Cleaned, notes: Sequence[str]) -> dict[str, Any]:
    merged = dict(cleaned.merged)
    for label, ids in cleaned.instances.items():
        if label in merged:
            merged |= dict.fromkeys(ids, merged[label])
    labels = [
        {"id": label, "name": case.label_names.get(label), "voxels": voxels, "map": number}
        | ({"merged": list(merged[label])} if label in merged else {})
        for number, counts in enumerate(cleaned.counts)
        for label, voxels in counts.items()
    ]
    return {
        "shape": list(case.image.shape),
        "spacing_mm": list(case.geometry.spacing_mm),
        "intensity": {} if case.intensity is None else asdict(case.intensity),
        "labels": labels,
        "dropped": [asdict(drop) for drop in cleaned.drops],
        "notes": list(dict.fromkeys(notes)),  # image and label may say the same
    }
