"""The small keys of an npz case: geometry, modality, names, regions, intensity rule, boxes."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import label_ids, parse_rule
from medsam2_ft.io.checks import MAX_LABEL_ID, check_geometry
from medsam2_ft.io.npz_zip import NpzReader
from medsam2_ft.types import IDENTITY_DIRECTION, MODALITIES, Case, Geometry, IntensityRule

_MODALITY_ALIASES: Mapping[str, str] = {
    **{name.lower(): name for name in MODALITIES},
    "mri": "MR",
    "pt": "PET",
    "us": "ultrasound",
    "us3d": "ultrasound",
    "cxr": "xray",
    "xr": "xray",
    "derm": "dermoscopy",
    "endo": "endoscopy",
    "mamm": "mammography",
    "mammo": "mammography",
    "mg": "mammography",
    "microscope": "microscopy",
    "micro": "microscopy",
}
_MAX_TEXT = 1 << 20


def find_modality(text: str) -> str | None:
    """Returns the modality that a word means (``MRI``, ``US``, ``X-Ray``, ...), or None."""
    return _MODALITY_ALIASES.get(re.sub(r"[\s_-]", "", text).lower())


def modality_from_name(stem: str) -> str | None:
    """Guesses the modality from a file name such as ``2DBox_Dermoscopy_x`` or ``CT_Abd_x``.

    Only the first part counts, after an optional ``2DBox_``, ``3DBox_``, ``2D_`` or ``3D_``:
    a ``us`` or ``ct`` deeper in a name may mean anything.
    """
    stem = re.sub(r"^[23]D(Box)?_", "", stem, flags=re.IGNORECASE)
    if re.match(r"x-?ray(?![a-z])", stem, flags=re.IGNORECASE):
        return "xray"
    return find_modality(re.split(r"[_\-. ]", stem, maxsplit=1)[0])


def read_geometry(reader: NpzReader) -> Geometry:
    """Reads ``spacing`` (x, y, z), ``origin`` and ``direction``; 1 mm and identity where absent.

    A 2D image may give two values of spacing; the third is then 1.

    Raises:
        UserError: One of them is invalid.
    """
    spacing = reader.read("spacing") if "spacing" in reader else np.ones(3)
    if spacing.shape == (2,) and spacing.dtype.kind in "uif":
        spacing = np.append(spacing, 1.0)
    origin = reader.read("origin") if "origin" in reader else np.zeros(3)
    given = "direction" in reader
    direction = reader.read("direction") if given else np.array(IDENTITY_DIRECTION)
    return check_geometry(str(reader.path), spacing, origin, direction)


def read_text(reader: NpzReader, key: str) -> str | None:
    """Reads a key that holds one unicode string; None where it is absent.

    Raises:
        UserError: The array is no single string.
    """
    if key not in reader:
        return None
    header = reader.header(key)
    single = header.dtype.kind == "U" and header.size == 1
    if not single or header.dtype.itemsize > 4 * _MAX_TEXT:
        raise UserError(
            f"{reader.path}: {key!r} must be one unicode string, "
            f"not {header.dtype} of shape {header.shape}; save it as np.array('...')"
        )
    return str(reader.read(key).item())


def read_modality(reader: NpzReader, stem: str) -> str | None:
    """Reads ``modality``, or guesses it from the file's name.

    Raises:
        UserError: The stored modality is unknown.
    """
    text = read_text(reader, "modality")
    if not text:
        return modality_from_name(stem)
    modality = find_modality(text)
    if modality is None:
        raise UserError(
            f"{reader.path}: unknown modality {text!r}; use one of {', '.join(MODALITIES)}"
        )
    return modality


def read_intensity(reader: NpzReader) -> IntensityRule | None:
    """Reads the rule that made the 0-255 values.

    Raises:
        UserError: The rule is not understood.
    """
    text = read_text(reader, "intensity")
    if not text:
        return None
    try:
        return parse_rule(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{reader.path}: 'intensity' is no intensity rule ({error}); "
            "prepare the case again or leave it out"
        ) from error


def read_is_video(reader: NpzReader) -> bool:
    """Reads ``video``: whether the first axis is time; False where it is absent.

    Raises:
        UserError: The array is no single boolean.
    """
    if "video" not in reader:
        return False
    header = reader.header("video")
    if header.dtype != np.bool_ or header.size != 1:
        raise UserError(
            f"{reader.path}: 'video' must be one boolean, not {header.dtype} of shape "
            f"{header.shape}; save it as np.array(True) or leave it out"
        )
    return bool(reader.read("video").item())


def read_label_names(reader: NpzReader) -> dict[int, str]:
    """Reads ``label_names``: JSON such as ``{"1": "spleen"}``.

    Raises:
        UserError: Not of that form.
    """
    names: dict[int, str] = {}
    for key, value in _read_object(reader, "label_names").items():
        if not (key.isdecimal() and isinstance(value, str) and 0 < int(key[:9]) <= MAX_LABEL_ID):
            raise _bad_json(reader, "label_names", '{"1": "spleen"}')
        names[int(key)] = value
    return names


def read_regions(reader: NpzReader) -> dict[str, tuple[int, ...]]:
    """Reads ``regions``: JSON such as ``{"whole tumour": [1, 2, 4]}``.

    Raises:
        UserError: Not of that form.
    """
    regions: dict[str, tuple[int, ...]] = {}
    for name, ids in _read_object(reader, "regions").items():
        if not (isinstance(ids, list) and ids and all(_is_label(i) for i in ids)):
            raise _bad_json(reader, "regions", '{"whole tumour": [1, 2, 4]}')
        regions[name] = tuple(ids)
    return regions


def _is_label(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_LABEL_ID


def _read_object(reader: NpzReader, key: str) -> dict[str, Any]:
    text = read_text(reader, key)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _bad_json(reader, key, '{"name": ...}')
    return value


def _bad_json(reader: NpzReader, key: str, example: str) -> UserError:
    return UserError(
        f"{reader.path}: {key!r} is not a JSON object of the form {example}; "
        "correct it or leave it out"
    )


def read_boxes(
    reader: NpzReader, image_zyx: tuple[int, int, int], label_maps: tuple[NDArray[Any], ...]
) -> tuple[NDArray[np.float32] | None, tuple[int, ...]]:
    """Reads ``boxes`` and ``box_labels``.

    Without ``box_labels``, row i belongs to the i-th label id in ascending order, or to id i + 1
    where the case has no labels.

    Raises:
        UserError: Wrong shape, corners out of order, outside the image, or labels that do not
            fit the rows.
    """
    if "boxes" not in reader:
        return None, ()
    boxes = check_boxes(str(reader.path), reader.read("boxes"), image_zyx)
    if "box_labels" in reader:
        given = reader.read("box_labels")
        if given.dtype.kind not in "ui":
            raise _bad_box_labels(reader.path, len(boxes))
        labels = tuple(int(label) for label in given.ravel())
    else:
        ids = sorted(i for label_map in label_maps for i in label_ids(label_map))
        labels = tuple(ids[: len(boxes)] or range(1, len(boxes) + 1))
    check_box_labels(reader.path, len(boxes), labels)
    return boxes, labels


def check_boxes(
    where: str, boxes: NDArray[Any], image_zyx: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Casts boxes to float32 ``(n, 4)`` or ``(n, 6)``; one box may come without its row axis.

    Raises:
        UserError: Wrong shape, not finite, corners out of order, or a box outside the image.
    """
    if boxes.dtype.kind not in "uif" or boxes.ndim not in (1, 2) or boxes.shape[-1] not in (4, 6):
        raise UserError(
            f"{where}: boxes of type {boxes.dtype} and shape {boxes.shape}; give (n, 4) as "
            "x0 y0 x1 y1 or (n, 6) as x0 y0 z0 x1 y1 z1"
        )
    with np.errstate(over="ignore"):
        rows = np.atleast_2d(boxes).astype(np.float32)
    half = rows.shape[1] // 2
    low, high = rows[:, :half], rows[:, half:]
    extent = np.array(image_zyx[::-1][:half], np.float32)
    inside = (low <= high) & (high >= 0) & (low < extent)  # False for NaN
    if not (inside.all() and np.isfinite(rows).all()):
        worst = int(np.flatnonzero(~(inside & np.isfinite(low) & np.isfinite(high)).all(axis=1))[0])
        raise UserError(
            f"{where}: box {worst} {rows[worst].tolist()} has corners out of order or lies "
            f"outside the image of (z, y, x) {image_zyx}; correct it"
        )
    return rows


def check_box_labels(path: Path, rows: int, labels: tuple[int, ...]) -> None:
    """Makes sure that every row has one valid label id.

    Raises:
        UserError: It has not.
    """
    if len(labels) != rows or not all(0 < label <= MAX_LABEL_ID for label in labels):
        raise _bad_box_labels(path, rows)


def _bad_box_labels(path: Path, rows: int) -> UserError:
    return UserError(
        f"{path}: {rows} boxes need {rows} label ids from 1 to {MAX_LABEL_ID}; "
        "add box_labels with one id for each row"
    )


def small_arrays(case: Case) -> dict[str, NDArray[Any]]:
    """The keys of ``case`` besides the images and label maps, in the order of the file."""
    arrays = geometry_arrays(case.geometry)
    if case.modality is not None:
        arrays["modality"] = np.array(case.modality)
    if case.label_names:
        arrays["label_names"] = names_array(case.label_names)
    if case.regions:
        regions = {name: [int(i) for i in ids] for name, ids in case.regions.items()}
        arrays["regions"] = np.array(json.dumps(regions))
    if case.intensity is not None:
        arrays["intensity"] = np.array(case.intensity.to_json())
    if case.is_video:
        arrays["video"] = np.array(True)
    if case.boxes is not None:
        arrays["boxes"] = case.boxes
        arrays["box_labels"] = np.array(case.box_labels, np.int64)
    return arrays


def geometry_arrays(geometry: Geometry) -> dict[str, NDArray[Any]]:
    """``spacing`` as (x, y, z), ``direction`` and ``origin``, float64."""
    return {
        "spacing": np.array(geometry.spacing_mm[::-1], np.float64),
        "direction": np.array(geometry.direction, np.float64),
        "origin": np.array(geometry.origin_mm, np.float64),
    }


def names_array(label_names: Mapping[int, str]) -> NDArray[Any]:
    """``label_names`` as the JSON string that the file holds."""
    return np.array(json.dumps({str(int(i)): name for i, name in sorted(label_names.items())}))
