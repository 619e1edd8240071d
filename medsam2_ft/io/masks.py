"""Masks from files: one file, one file for each object or label, one picture for each frame."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import label_ids
from medsam2_ft.io.atomic import file_stem, file_suffix
from medsam2_ft.io.checks import MAX_LABEL_ID, check_image_shape
from medsam2_ft.io.frames import decode_frames, natural_key
from medsam2_ft.io.label_values import LabelValues
from medsam2_ft.io.mask_values import StoredMask, label_maps
from medsam2_ft.io.pack import pack_masks
from medsam2_ft.io.pixels import Picture
from medsam2_ft.types import Geometry, LabelVolume

_GRID_TOLERANCE = 1e-3  # of mm and of direction cosines: parts are written by one program


def read_mask_file(path: Path, values: LabelValues) -> LabelVolume:
    """Reads NIfTI, NRRD, MetaImage, HDF5 or a picture as labels.

    Raises:
        UserError: Missing or damaged file, or values that do not fit ``values``.
    """
    stored = _stored(Path(path), values)
    check_image_shape(stored.where, stored.array.shape[:3])
    maps, notes = label_maps(stored, values)
    return LabelVolume(
        maps,
        geometry=stored.geometry,
        has_geometry=stored.has_geometry,
        notes=(*stored.notes, *notes),
    )


def _stored(path: Path, values: LabelValues) -> StoredMask:
    suffix = file_suffix(path)
    if suffix in (".nii", ".nii.gz"):
        from medsam2_ft.io.nifti import read_nifti_layers

        array, geometry = read_nifti_layers(path)
    elif suffix in (".nrrd", ".nhdr", ".mha", ".mhd"):
        from medsam2_ft.io.itk import read_layers

        array, geometry, _ = read_layers(path, fourth_axis=True)
    elif suffix in (".h5", ".hdf5"):
        from medsam2_ft.io.hdf5 import read_hdf5_mask

        return read_hdf5_mask(path, values)
    else:
        from medsam2_ft.io.pictures import decode_picture

        return _from_picture(str(path), decode_picture(path))
    if array.shape[-1] == 1:
        return StoredMask(str(path), array[..., 0], geometry=geometry)
    return StoredMask(str(path), array, "layers", geometry=geometry)


def _from_picture(where: str, picture: Picture) -> StoredMask:
    if picture.transparent and (picture.pixels == picture.pixels[0, 0, 0]).all():
        raise UserError(
            f"{where}: is of one colour, and differs in its alpha channel only; save that channel "
            "as a gray picture"
        )
    notes = picture.notes
    if picture.transparent:
        notes = (*notes, "the alpha channel was left out")
    return StoredMask(
        where,
        picture.pixels,
        axes="gray" if picture.pixels.ndim == 3 else "colour",
        indices=picture.indices,
        is_picture=True,
        lossy=picture.lossy,
        has_geometry=False,
        notes=notes,
    )


def read_frame_masks(files: Sequence[Path], values: LabelValues) -> LabelVolume:
    """Reads one mask picture for each frame of a video, in the order given.

    The values of all frames are looked at together: an id means the same in every frame.

    Raises:
        UserError: As ``read_frames``, or values that do not fit ``values``.
    """
    where = f"{Path(files[0]).parent}: {len(files)} masks" if files else "masks"
    stored = _from_picture(where, decode_frames(files))
    maps, notes = label_maps(stored, values)
    return LabelVolume(maps, has_geometry=False, notes=(*stored.notes, *notes))


@dataclass
class _PartReader:
    """Reads parts one after the other and remembers what they have in common.

    Attributes:
        values: How values become masks.
        grid: Shape and geometry of the first part.
        has_geometry: Whether the parts have a grid of their own.
        empty: Names of the files without foreground.
        notes: Notes of the files, each once.
    """

    values: LabelValues
    grid: tuple[tuple[int, ...], Geometry] | None = None
    has_geometry: bool = True
    empty: list[str] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)

    def read(self, file: Path) -> NDArray[np.bool_]:
        """Reads one part as a ``(z, y, x)`` mask.

        Raises:
            UserError: Several labels in it, or another grid than the parts before.
        """
        labels = read_mask_file(file, self.values)
        label_map = labels.maps[0]
        top = label_map.max()
        # slice by slice: temporary arrays of a whole CT cost more than the comparison
        several = any(((plane != 0) & (plane != top)).any() for plane in label_map)
        if several or len(labels.maps) > 1:
            ids = [label for other in labels.maps for label in label_ids(other)]
            raise UserError(
                f"{file}: holds {len(ids)} labels ({', '.join(map(str, ids[:5]))}) where each part "
                "must hold one; choose form binary if all of them mean the same"
            )
        grid = (label_map.shape, labels.geometry)
        if self.grid is None:
            self.grid, self.has_geometry = grid, labels.has_geometry
        elif not _same_grid(self.grid, grid):
            raise UserError(
                f"{file}: has another shape or position than the parts before it; all parts need "
                "the grid of the image"
            )
        self.notes |= dict.fromkeys(labels.notes)
        if not top:
            self.empty.append(file.name)
        return label_map.astype(np.bool_)


def read_parts(
    files: Sequence[Path], values: LabelValues, names: Sequence[str] = ()
) -> LabelVolume:
    """Reads one label file for each object or each label of an image.

    The files are read one after the other. Parts that overlap go to further maps.

    Args:
        files: Label files of one grid; their order does not matter.
        values: ``parts`` says what the files are, ``part_names`` gives names their ids; the other
            fields say how values become masks.
        names: What each file is, where its stem does not say it.

    Returns:
        Maps, the names of labels, and notes: files without foreground, and where ids follow from
        the files at hand alone.

    Raises:
        UserError: No file, a damaged one, several labels in one, different grids, two files of one
            name, or a name that ``part_names`` does not list.
    """
    if not files:
        raise UserError("a segmentation in parts needs at least one file; give the label files")
    files = [Path(file) for file in files]
    called = dict(zip(files, names or map(file_stem, files), strict=True))
    numbered = _numbered(called, values)
    reader = _PartReader(values)
    first = reader.read(numbered[0][1])
    z, y, x = first.shape
    maps = pack_masks((z, y, x), _masks(reader, first, numbered))
    is_labels = values.parts == "labels"
    label_names = {label: called[file] for label, file in numbered} if is_labels else {}
    geometry = reader.grid[1] if reader.grid else Geometry()
    notes = _part_notes(reader, len(files))
    return LabelVolume(maps, label_names, geometry, reader.has_geometry, notes)


def _part_notes(reader: _PartReader, count: int) -> tuple[str, ...]:
    notes = list(reader.notes)
    if reader.empty:
        notes.append(f"{len(reader.empty)} parts are empty ({_listed(reader.empty)})")
    if reader.values.parts == "labels" and not reader.values.part_names:
        notes.append(
            f"label ids follow the names of this case's {count} files; give the names in a fixed "
            "order if other cases have other files"
        )
    return tuple(notes)


def _masks(
    reader: _PartReader, first: NDArray[np.bool_], numbered: Sequence[tuple[int, Path]]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Masks with label ids; the ids of objects leave no gap where one is empty."""
    objects = reader.values.parts == "objects"
    for index, (label, file) in enumerate(numbered):
        mask = reader.read(file) if index else first
        if mask.any():
            yield label - (len(reader.empty) if objects else 0), mask


def _numbered(called: Mapping[Path, str], values: LabelValues) -> list[tuple[int, Path]]:
    """Files, given with their names, in reading order with label ids from 1."""
    files = list(called)
    if len(files) > MAX_LABEL_ID:
        raise UserError(f"{files[0].parent}: {len(files)} parts; at most {MAX_LABEL_ID} fit")
    if values.parts == "objects":
        return list(enumerate(sorted(files, key=natural_key), start=1))
    stems: dict[str, Path] = {}
    for file, name in called.items():
        other = stems.setdefault(name, file)
        if other is not file:
            raise UserError(f"{file}: has the label name of {other}; keep one of the two")
    order = values.part_names or tuple(sorted(stems))
    unknown = sorted(set(stems) - set(order))
    if unknown:
        raise UserError(
            f"{stems[unknown[0]]}: {unknown[0]!r} is not one of the {len(order)} label names "
            f"({_listed(order)}); add it, or leave the file out"
        )
    return [(label, stems[name]) for label, name in enumerate(order, start=1) if name in stems]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _same_grid(
    one: tuple[tuple[int, ...], Geometry], other: tuple[tuple[int, ...], Geometry]
) -> bool:
    return one[0] == other[0] and all(
        np.allclose(getattr(one[1], name), getattr(other[1], name), rtol=0, atol=_GRID_TOLERANCE)
        for name in ("spacing_mm", "origin_mm", "direction")
    )
