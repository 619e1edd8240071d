"""Lists what lies below an input folder: images and label files, DICOM series among them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from medsam2_ft.errors import UserError
from medsam2_ft.io import (
    ARCHIVE_SUFFIXES,
    DICOM_SUFFIXES,
    LABEL_SUFFIXES,
    VOLUME_SUFFIXES,
    file_stem,
    file_suffix,
)
from medsam2_ft.io.signatures import is_dicom
from medsam2_ft.io.sources import Source
from medsam2_ft.prepare.naming import case_name, tidy_name, without_roles
from medsam2_ft.prepare.sources import SourceFile

if TYPE_CHECKING:
    from medsam2_ft.io.dicom import Series

_KNOWN_SUFFIXES = frozenset((*VOLUME_SUFFIXES, *LABEL_SUFFIXES))


@dataclass(frozen=True)
class Listing:
    """What lies below an input folder.

    Attributes:
        root: The folder.
        files: Everything that is not DICOM and has a known suffix, sorted.
        series: DICOM images and segmentations.
    """

    root: Path
    files: tuple[Path, ...]
    series: tuple["Series", ...]


def list_sources(root: Path, glob: str, exclude: Path, role: str) -> Listing:
    """Lists what lies below ``root``; hidden files and ``exclude`` are left out.

    Args:
        root: Folder, or a single file.
        glob: Which files count.
        exclude: Folder that is not searched (the output).
        role: ``image`` or ``label``, for messages.

    Raises:
        UserError: There is no such file or folder.
    """
    if root.is_file():
        return _listing(root.parent, escape(root.name), [root])
    if not root.is_dir():
        raise UserError(f"{root}: there is no such {role} file or folder")
    skip = exclude.resolve()
    found = []
    for path in sorted(root.glob(glob)):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if not hidden and path.is_file() and skip not in path.resolve().parents:
            found.append(path)
    return _listing(root, glob, found)


def _listing(root: Path, glob: str, paths: Sequence[Path]) -> Listing:
    dicom = {path for path in paths if _looks_like_dicom(path)}
    series = list(_series_of(root, glob, dicom)) if dicom else []
    archives = [path for path in paths if file_suffix(path) in ARCHIVE_SUFFIXES]
    series += [found for path in archives for found in _series_in(path)]
    taken = dicom | {path for found in series for path in found.files}
    files = tuple(p for p in paths if p not in taken and file_suffix(p) in _KNOWN_SUFFIXES)
    return Listing(root, files, tuple(series))


def _series_in(archive: Path) -> list["Series"]:
    """The DICOM image that an archive holds, as a series of one file: the archive."""
    from medsam2_ft.io.archive import unpacked
    from medsam2_ft.io.dicom import scan

    try:
        with unpacked(archive) as folder:
            images = [series for series in scan(folder) if series.kind == "image"]
    except UserError:
        return []  # reading it for its case says what is wrong
    return [replace(image, folder=archive.parent, files=(archive,)) for image in images[:1]]


def _looks_like_dicom(path: Path) -> bool:
    suffix = file_suffix(path)
    return suffix in DICOM_SUFFIXES or (suffix not in _KNOWN_SUFFIXES and is_dicom(path))


def _series_of(root: Path, glob: str, dicom: set[Path]) -> Iterable["Series"]:
    """Series of the files in ``dicom``; a segmentation of several files is one for each."""
    from medsam2_ft.io.dicom import scan

    for series in scan(root, glob):
        files = tuple(path for path in series.files if path in dicom)
        if series.kind == "labels":
            for path in files:
                yield replace(series, folder=path.parent, files=(path,))
        elif files:
            yield replace(series, files=files)


def images_of(listing: Listing) -> list[SourceFile]:
    """Returns the images: files that can hold one, and DICOM image series."""
    plain = [path for path in listing.files if file_suffix(path) in VOLUME_SUFFIXES]
    series = [entry for entry in listing.series if entry.kind == "image"]
    return [*(_plain(listing, path) for path in plain), *_image_series(listing, series)]


def labels_of(listing: Listing) -> list[SourceFile]:
    """Returns the label files: those that can hold labels, DICOM SEG and RTSTRUCT."""
    plain = [path for path in listing.files if file_suffix(path) in LABEL_SUFFIXES]
    found = [_plain(listing, path) for path in plain]
    for series in listing.series:
        if series.kind == "labels":
            (path,) = series.files
            relative = PurePath(path.relative_to(listing.root))
            found.append(SourceFile(Source(path), relative, _file_title(relative), series))
    return found


def _plain(listing: Listing, path: Path) -> SourceFile:
    return SourceFile(Source(path), PurePath(path.relative_to(listing.root)))


def _image_series(listing: Listing, series: Sequence["Series"]) -> list[SourceFile]:
    shared = Counter(entry.folder for entry in series if len(entry.files) > 1)
    numbers = Counter((entry.folder, entry.number) for entry in series if len(entry.files) > 1)
    found = []
    for entry in series:
        if len(entry.files) == 1:
            path = entry.files[0]
            relative = PurePath(path.relative_to(listing.root))
            title = _file_title(relative)
            if file_suffix(path) in ARCHIVE_SUFFIXES:
                found.append(SourceFile(Source(path), relative, case_name(relative), entry))
                continue
        else:
            path = entry.folder
            relative = _folder_path(listing.root, path)
            title = tidy_name("_".join(without_roles(relative.parts)) or relative.name)
            if shared[entry.folder] > 1:
                unique = entry.number is not None and numbers[entry.folder, entry.number] == 1
                # The UID is replaced by its hash wherever a name leaves the program.
                title += f"_s{entry.number}" if unique else f"_{entry.uid}"
        found.append(SourceFile(Source(path, entry.files, "series"), relative, title, entry))
    return found


def _folder_path(root: Path, folder: Path) -> PurePath:
    """The folder below ``root``; for ``root`` itself its own name, or that of the one around it."""
    relative = PurePath(folder.relative_to(root))
    if relative != PurePath():
        return relative
    parts = [part for part in folder.resolve().parts if part != folder.anchor]
    return PurePath((without_roles(parts) or ("case",))[-1])


def _file_title(relative: PurePath) -> str:
    """Name of a DICOM file; what follows a dot is part of it unless it is a known suffix."""
    name = Path(relative.name)
    stem = file_stem(name) if file_suffix(name) in DICOM_SUFFIXES else relative.name
    return tidy_name("_".join((*without_roles(relative.parts[:-1]), stem)))
