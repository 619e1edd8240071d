"""Finds the DICOM images and labels of a folder tree by their headers."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydicom.dataset import Dataset

from medsam2_ft.errors import UserError
from medsam2_ft.io.dicom.files import (
    AnyTag,
    damaged_as_user_error,
    integer,
    items,
    open_dataset,
    text,
)
from medsam2_ft.io.dicom.modality import kind_of, our_modality
from medsam2_ft.io.dicom.series import read_series
from medsam2_ft.io.signatures import is_dicom
from medsam2_ft.types import Volume

_SUFFIXES = (".dcm", ".dicom", ".ima")
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
_SCAN_TAGS: tuple[AnyTag, ...] = (
    "SOPClassUID",
    "Modality",
    "PatientID",
    "PatientName",
    "SeriesInstanceUID",
    "SeriesNumber",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "Rows",
    "NumberOfFrames",
    "ConcatenationUID",
    "ReferencedSeriesSequence",
    "ReferencedFrameOfReferenceSequence",
)
_MOST_LISTED = 6


@dataclass(frozen=True)
class Series:
    """Files that make one image, or one file with labels.

    Attributes:
        folder: The folder that holds the files, or the closest one above all of them.
        files: Sorted by name, which says nothing of their order in space.
        kind: Image, or labels (SEG, RTSTRUCT).
        modality: One of ``MODALITIES``, where the file says so; None for labels.
        uid: Series instance UID.
        patient: Patient id in clear, "" where there is none.
        frame_of_reference: UID of the coordinate system.
        number: Series number.
        refers_to: Series UIDs that labels refer to.
        notes: What was found odd.
        name: Patient name in clear, ``family^given``, "" where there is none.
    """

    folder: Path
    files: tuple[Path, ...] = field(repr=False)
    kind: Literal["image", "labels"]
    modality: str | None
    uid: str = field(repr=False)
    patient: str = field(repr=False)
    frame_of_reference: str = field(repr=False)
    number: int | None
    refers_to: frozenset[str] = field(default=frozenset(), repr=False)
    notes: tuple[str, ...] = ()
    name: str = field(default="", repr=False)


@dataclass(frozen=True)
class _Entry:
    """What the scan keeps of one file; ``group`` is equal for files of one image."""

    path: Path
    group: tuple[str, ...]
    series: Series


def scan(folder: Path, pattern: str = "**/*") -> list[Series]:
    """Lists the DICOM objects of a folder tree, sorted by their first file.

    Files of one series make one image. Images that say nothing of their place (the views of a
    mammography), and multi-frame files, are an image each. Files that are not DICOM, and DICOM
    objects that are neither images nor labels, are passed over.

    Args:
        folder: Where to look.
        pattern: Which files to look at, as for ``Path.glob``.

    Raises:
        UserError: The folder does not exist or cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check the path")
    groups: dict[tuple[str, ...], list[_Entry]] = defaultdict(list)
    broken: Counter[Path] = Counter()
    for path in _candidates(folder, pattern):
        try:
            entry = _entry(path)
        except UserError:
            broken[path.parent] += 1
            continue
        if entry is not None:
            groups[entry.group].append(entry)
    return sorted((_joined(g, broken) for g in groups.values()), key=lambda s: s.files[0])


def _candidates(folder: Path, pattern: str) -> Iterator[Path]:
    try:
        paths = sorted(folder.glob(pattern))
    except (OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{folder}: cannot list {pattern} ({error}); check both") from error
    for path in paths:
        if is_dicom(path) or (path.suffix.lower() in _SUFFIXES and path.is_file()):
            yield path


def _entry(path: Path) -> _Entry | None:
    dataset = open_dataset(path, _SCAN_TAGS)
    with damaged_as_user_error(path, "header"):
        if dataset.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY_CLASS:
            return None
        code = text(dataset, "Modality")
        kind = kind_of(text(dataset, "SOPClassUID"), code, integer(dataset, "Rows", 0) > 0)
        if kind is None:
            return None
        number = integer(dataset, "SeriesNumber", -1)
        uid = text(dataset, "SeriesInstanceUID")
        series = Series(
            folder=path.parent,
            files=(path,),
            kind=kind,
            modality=our_modality(code) if kind == "image" else None,
            uid=uid,
            patient=text(dataset, "PatientID"),
            frame_of_reference=_frame_of_reference(dataset),
            number=None if number < 0 else number,
            refers_to=frozenset(_references(dataset)) if kind == "labels" else frozenset(),
            name=str(dataset.get("PatientName") or ""),
        )
        shared = (uid,) if uid else (str(path.parent), str(number))
        is_alone = kind == "labels" or _is_alone(dataset)
        return _Entry(path, (*shared, code, str(path) if is_alone else ""), series)


def _is_alone(dataset: Dataset) -> bool:
    """Whether an image is complete in one file."""
    if integer(dataset, "NumberOfFrames", 1) > 1:
        return not text(dataset, "ConcatenationUID")
    return not text(dataset, "ImagePositionPatient")


def _frame_of_reference(dataset: Dataset) -> str:
    for source in (dataset, *items(dataset, "ReferencedFrameOfReferenceSequence")):
        found = text(source, "FrameOfReferenceUID")
        if found:
            return found
    return ""


def _references(dataset: Dataset) -> Iterator[str]:
    series = list(items(dataset, "ReferencedSeriesSequence"))
    for frame in items(dataset, "ReferencedFrameOfReferenceSequence"):
        for study in items(frame, "RTReferencedStudySequence"):
            series.extend(items(study, "RTReferencedSeriesSequence"))
    for item in series:
        uid = text(item, "SeriesInstanceUID")
        if uid:
            yield uid


def _joined(entries: list[_Entry], broken: Counter[Path]) -> Series:
    first = entries[0].series
    files = tuple(entry.path for entry in entries)
    folders = {path.parent for path in files}
    unreadable = sum(broken[folder] for folder in folders)
    return Series(
        folder=Path(os.path.commonpath(folders)),
        files=files,
        kind=first.kind,
        modality=first.modality,
        uid=first.uid,
        patient=first.patient,
        frame_of_reference=first.frame_of_reference,
        number=first.number,
        refers_to=first.refers_to,
        name=first.name,
        notes=(f"{unreadable} files beside it are not readable",) if unreadable else (),
    )


def read_folder(folder: Path) -> Volume:
    """Reads the one image that a folder and those below it hold.

    Raises:
        UserError: No image, more than one, or as ``read_series``.
    """
    found = [series for series in scan(Path(folder)) if series.kind == "image"]
    if not found:
        raise UserError(
            f"{folder}: holds neither a DICOM image nor frames of a video; check the path"
        )
    if len(found) > 1:
        listed = "; ".join(_describe(Path(folder), series) for series in found[:_MOST_LISTED])
        more = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
        raise UserError(
            f"{folder}: holds {len(found)} images ({listed}{more}); give the folder or the file "
            "of one, or use prepare, which takes them all"
        )
    volume = read_series(found[0].files)
    if not found[0].notes:
        return volume
    return Volume(
        volume.array,
        volume.geometry,
        volume.has_geometry,
        volume.is_video,
        volume.modality,
        (*found[0].notes, *volume.notes),
    )


def _describe(folder: Path, series: Series) -> str:
    place = series.files[0].relative_to(folder)
    count = f" and {len(series.files) - 1} more" if len(series.files) > 1 else ""
    return f"{series.modality or 'image'} {place}{count}"
