"""npz cases: the interchange format of training, evaluation and inference.

Keys: ``imgs`` ``(D,H,W)``, ``(D,H,W,3)``, ``(H,W)`` or ``(H,W,3)``; optional ``gts`` of the same
grid (further maps ``gts_1``, ``gts_2``, ... hold overlaps), ``spacing`` (x, y, z), ``direction``,
``origin``, ``boxes``, ``box_labels``, ``video`` (a boolean: the first axis is time), and as
unicode strings ``modality``, ``label_names``, ``regions``, ``intensity`` and ``axes``. A file in a
folder ``imgs`` may have its labels under the same name in the sister folder ``gts``; a file
elsewhere, in the subfolder ``gts``.

What three axes of ``imgs`` mean is decided in this order:

1. ``axes``, where present (``zyx``, ``zyxc``, ``yx``, ``yxc``); ``write_case`` adds it to the files
   that would otherwise be ambiguous;
2. the labels: with ``gts`` of the same shape it is a volume, with ``gts`` ``(H,W)`` or ``(1,H,W)``
   and a last axis of 3 a colour image;
3. a last axis of 3 is colour; a last axis of 1 or 4 is refused, because it is more likely a gray or
   RGBA image than a volume that is so narrow; everything else is a volume.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io import npz_fields as fields
from medsam2_ft.io.checks import (
    as_image,
    check_geometry,
    check_image_shape,
)
from medsam2_ft.io.npz_labels import check_grid, label_headers, map_arrays, read_maps
from medsam2_ft.io.npz_zip import ArrayHeader, NpzReader, open_npz, write_npz
from medsam2_ft.types import Case

_AXES_NDIM = {"zyx": 3, "zyxc": 4, "yx": 2, "yxc": 3}
_NARROW = (1, 3, 4)


@dataclass(frozen=True)
class CaseHeader:
    """What an npz file says about itself, known without decompressing its volumes.

    Attributes:
        path: The file.
        arrays: Shape and type of every array, as stored.
        image_zyx: Extent of the image as ``(z, y, x)``.
        colour: Whether the image has three channels.
        label_keys: Keys of the label maps, also those of the parallel ``gts`` file.
        labels_path: File that holds the label maps; None where there are none.
        modality: Stored or guessed from the name.
    """

    path: Path
    arrays: Mapping[str, ArrayHeader]
    image_zyx: tuple[int, int, int]
    colour: bool
    label_keys: tuple[str, ...]
    labels_path: Path | None
    modality: str | None


def find_cases(folder: Path) -> list[Path]:
    """Lists the cases of a folder: its ``*.npz`` and those of its subfolder ``imgs``, sorted.

    A parallel ``gts`` folder and hidden (unfinished) files are left out.

    Raises:
        UserError: The folder is missing or holds no case.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check the path of the npz cases")
    found = [path for place in (folder, folder / "imgs") for path in place.glob("*.npz")]
    cases = sorted(path for path in found if not path.name.startswith("."))
    if not cases:
        raise UserError(
            f"{folder}: holds no .npz case (nor does its subfolder imgs); "
            "make cases from NIfTI, NRRD or MHA volumes with `medsam2-ft prepare`"
        )
    return cases


def case_header(path: Path) -> CaseHeader:
    """Reads shapes and types only.

    Raises:
        UserError: The file is not a readable case, or image and labels differ in grid.
    """
    path = Path(path)
    with open_npz(path) as reader:
        arrays = {key: reader.header(key) for key in reader.names}
        labels_path, labels = label_headers(path, reader)
        shape = _stored_shape(reader, next(iter(labels.values()), None))
        for key, header in labels.items():
            check_grid(labels_path or path, key, header.shape, shape[:3])
        return CaseHeader(
            path=path,
            arrays=arrays,
            image_zyx=(shape[0], shape[1], shape[2]),
            colour=len(shape) == 4,
            label_keys=tuple(labels),
            labels_path=labels_path,
            modality=fields.read_modality(reader, path.stem),
        )


def read_case(path: Path) -> Case:
    """Reads one case; every variant of the module's description.

    Raises:
        UserError: The file is missing, truncated, damaged, beyond the size limit, holds pickled
            objects, lacks ``imgs``, or one of its arrays is invalid or does not fit the others.
    """
    path = Path(path)
    with open_npz(path) as reader:
        labels_path, labels = label_headers(path, reader)
        shape = _stored_shape(reader, next(iter(labels.values()), None))
        for key, header in labels.items():
            check_grid(labels_path or path, key, header.shape, shape[:3])
        geometry = fields.read_geometry(reader)
        image = as_image(f"{path}: imgs", reader.read("imgs").reshape(shape))
        if labels_path is None or labels_path == path:
            maps = read_maps(reader, labels, shape[:3])
            label_names = fields.read_label_names(reader)
        else:
            with open_npz(labels_path) as label_reader:
                maps = read_maps(label_reader, labels, shape[:3])
                stored = fields.read_label_names(label_reader)
            label_names = stored | fields.read_label_names(reader)
        boxes, box_labels = fields.read_boxes(reader, (shape[0], shape[1], shape[2]), maps)
        return Case(
            name=path.stem,
            image=image,
            label_maps=maps,
            geometry=geometry,
            modality=fields.read_modality(reader, path.stem),
            label_names=label_names,
            regions=fields.read_regions(reader),
            intensity=fields.read_intensity(reader),
            boxes=boxes,
            box_labels=box_labels,
            is_video=fields.read_is_video(reader),
        )


def _stored_shape(reader: NpzReader, labels: ArrayHeader | None) -> tuple[int, ...]:
    """Shape of ``imgs`` as ``(z, y, x)`` or ``(z, y, x, 3)``, by the module's three rules."""
    if "imgs" not in reader:
        known = ", ".join(reader.names)[:200] or "none"
        raise UserError(
            f"{reader.path}: has no array 'imgs' (arrays: {known}); "
            "save the image under that key or run `medsam2-ft prepare`"
        )
    shape = reader.header("imgs").shape
    axes = _axes(reader, shape, labels)
    full = shape if axes.startswith("z") else (1, *shape)
    check_image_shape(f"{reader.path}: imgs", full)
    return full


def _axes(reader: NpzReader, shape: tuple[int, ...], labels: ArrayHeader | None) -> str:
    stated = fields.read_text(reader, "axes")
    if stated is not None:
        if _AXES_NDIM.get(stated) != len(shape):
            raise UserError(
                f"{reader.path}: axes {stated!r} does not fit imgs of shape {shape}; "
                f"use one of {', '.join(_AXES_NDIM)} or leave it out"
            )
        return stated
    if len(shape) != 3:
        return "yx" if len(shape) == 2 else "zyxc"
    if labels is not None and labels.shape == shape:
        return "zyx"
    flat = labels is None or labels.shape in (shape[:2], (1, *shape[:2]))
    if flat and shape[-1] == 3:
        return "yxc"
    if flat and shape[-1] in _NARROW:
        raise UserError(
            f"{reader.path}: imgs of shape {shape} looks like an image with {shape[-1]} channels; "
            "save gray as (H, W) and colour as (H, W, 3), or add axes = 'zyx' for a narrow volume"
        )
    return "zyx"


def write_case(path: Path, case: Case) -> None:
    """Writes one case, atomically and compressed; the same case gives the same bytes.

    ``read_case`` returns the same values; label maps come back as uint8 or uint16. The name of the
    case is the file's.

    Args:
        path: The ``.npz`` file; its folder must exist.
        case: What to write.

    Raises:
        UserError: The case breaks a rule that ``read_case`` checks, or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise UserError(f"{path}: a case is an .npz file; give a name that ends in .npz")
    image = case.image
    check_image_shape(f"{path}: image", image.shape)
    grid = (image.shape[0], image.shape[1], image.shape[2])
    _check_meta(path, case, grid)
    arrays: dict[str, NDArray[Any]] = {"imgs": np.ascontiguousarray(image)}
    if image.ndim == 3 and image.shape[-1] in _NARROW and not case.label_maps:
        arrays["axes"] = np.array("zyx")
    arrays |= map_arrays(path, case.label_maps, grid)
    write_npz(path, arrays | fields.small_arrays(case))


def _check_meta(path: Path, case: Case, grid: tuple[int, int, int]) -> None:
    geometry = case.geometry
    check_geometry(str(path), geometry.spacing_mm, geometry.origin_mm, geometry.direction)
    if case.modality is not None and fields.find_modality(case.modality) != case.modality:
        raise UserError(f"{path}: unknown modality {case.modality!r}; use one of types.MODALITIES")
    if case.boxes is not None:
        fields.check_boxes(str(path), case.boxes, grid)
        fields.check_box_labels(path, len(case.boxes), case.box_labels)
