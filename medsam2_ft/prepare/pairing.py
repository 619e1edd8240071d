"""Finds the images of an input and says which segmentation belongs to which."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medsam2_ft.errors import UserError
from medsam2_ft.io import LABEL_SUFFIXES, VOLUME_SUFFIXES
from medsam2_ft.prepare.discover import Listing, images_of, labels_of, list_sources
from medsam2_ft.prepare.matching import Found, Match, find_images, find_labels, match, titled
from medsam2_ft.prepare.naming import looks_like_label, tidy_name
from medsam2_ft.prepare.patients import Veil, make_veil, name_spellings, salt_of
from medsam2_ft.prepare.patterns import OBJECT, PATIENT, Pattern, parse_pattern
from medsam2_ft.prepare.rules import pair_by_rules
from medsam2_ft.prepare.sources import SourceFile

ANY_FILE = "**/*"


class NothingFoundError(UserError):
    """No file of the input matches."""


@dataclass(frozen=True)
class Pair:
    """One case to be made.

    Attributes:
        name: Name of the case and stem of its npz file, without identifiers.
        clear: The name with identifiers, for patterns and files that the user wrote.
        image: Image.
        label: Its segmentation; None where none was found (an npz may hold its own).
        patient: What tells the patient, by DICOM (hashed) or by ``{patient}``; empty where nothing
            does.
        parts: What the files of a label in parts are.
        veil: Keeps identifiers out of what is written.
        problem: Why no case can be made of the two, empty where one can.
    """

    name: str
    image: SourceFile
    label: SourceFile | None
    patient: str = ""
    parts: Literal["labels", "objects"] = "labels"
    veil: Veil = field(default_factory=Veil)
    clear: str = field(default="", repr=False)
    problem: str = ""


@dataclass(frozen=True)
class Sources:
    """What the input folders hold.

    Attributes:
        pairs: One entry per image, sorted by name.
        unused_labels: Label files that belong to no image, relative to their folder, sorted.
        used_labels: Label files that belong to an image, in the same way.
        left_out: DICOM series of another modality than the one that was asked for.
        veil: Keeps identifiers out of what is written.
    """

    pairs: tuple[Pair, ...]
    unused_labels: tuple[str, ...]
    used_labels: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    veil: Veil = field(default_factory=Veil)


def find_sources(
    images: Path,
    labels: Path | None,
    *,
    image_glob: str,
    label_glob: str,
    exclude: Path,
    modality: str | None = None,
    name_prefix: str = "",
    salt: bytes | None = None,
) -> Sources:
    """Finds images and labels and pairs them.

    Args:
        images: Folder or single file.
        labels: Folder or single file. None, or the image folder again, where labels lie beside
            the images: then a label file is one whose name says so (seg, mask, label, gt, ...), or
            a DICOM segmentation.
        image_glob: Which files below ``images`` count.
        label_glob: Which files below ``labels`` count.
        exclude: Folder that is not searched (the output).
        modality: DICOM series that state another one are left out.
        name_prefix: Put before every case name.
        salt: Of the hashes; None: that of ``exclude``.

    Returns:
        The pairs, and what was left over.

    Raises:
        NothingFoundError: No image matches.
        UserError: An input does not exist, no label file matches, several fit one image, or two
            images would make cases of the same name.
    """
    image_pattern = parse_pattern(image_glob, "--image_glob")
    label_pattern = parse_pattern(label_glob, "--label_glob")
    if label_pattern.names and not image_pattern.names:
        raise UserError(
            f"--label_glob {label_glob!r} has placeholders; use them in --image_glob, too, such as "
            "'{case}/image.nii.gz' and '{case}/mask.nii.gz'"
        )
    beside = labels is None or labels.resolve() == images.resolve()
    listing = list_sources(images, image_pattern.glob, exclude, "image")
    same = beside and (images.is_file() or label_pattern.glob == image_pattern.glob)
    other = (
        listing if same else list_sources(labels or images, label_pattern.glob, exclude, "label")
    )
    found_labels = (
        []
        if beside and images.is_file()
        else _labels(other, label_pattern, image_pattern, beside=beside)
    )
    found_images = _images(listing, images, image_pattern, found_labels, beside=beside)
    kept, left_out = _of_modality(found_images, modality, images)
    offered = _not_of(left_out, kept, found_labels)
    if not beside and not found_labels:
        raise UserError(_no_match(labels or images, "label", label_pattern))
    matches = _paired(kept, offered, image_pattern, label_pattern)
    veil = make_veil(salt or salt_of(exclude), _patients((listing, other)))
    pairs = [_pair(entry, veil, label_pattern, name_prefix) for entry in matches]
    check_names(pairs)
    taken = {path for entry in matches if entry.label for path in _paths(entry.label)}
    files = [file for found in offered for file in found.pieces.values() or (found.file,)]
    used, unused = (
        {veil.path(f.relative).as_posix() for f in files if (f.path in taken) == wanted}
        for wanted in (True, False)
    )
    return Sources(
        tuple(sorted(pairs, key=lambda pair: pair.name)),
        tuple(sorted(unused)),
        tuple(sorted(used)),
        tuple(sorted(f"{veil.text(f.file.case)} ({_stated(f.file)})" for f in left_out)),
        veil,
    )


def _labels(listing: Listing, pattern: Pattern, images: Pattern, *, beside: bool) -> list[Found]:
    files = labels_of(listing)
    # Where nothing else tells them apart, the name does; a DICOM header always does.
    if beside and pattern.text in (ANY_FILE, images.text):
        files = [f for f in files if f.series is not None or looks_like_label(f.relative)]
    return find_labels(files, pattern) if pattern.names else [Found(f, ({},)) for f in files]


def _images(
    listing: Listing, root: Path, pattern: Pattern, labels: Sequence[Found], *, beside: bool
) -> list[Found]:
    files = images_of(listing)
    if not files:
        raise NothingFoundError(_no_match(root, "image", pattern))
    taken = {path.resolve() for found in labels for path in _paths(found)}
    by_name = beside and pattern.text == ANY_FILE and not root.is_file()
    files = [
        file
        for file in files
        if file.path.resolve() not in taken
        and not (by_name and file.series is None and looks_like_label(file.relative))
    ]
    found = find_images(files, pattern) if pattern.names else [Found(f, ({},)) for f in files]
    if files and not found:
        raise NothingFoundError(_no_match(root, "image", pattern))
    if not found:
        raise UserError(
            f"{root}: every file counts as a label file by its name; say which are images with "
            "--image_glob and which are labels with --label_glob"
        )
    return found


def _no_match(root: Path, role: str, pattern: Pattern) -> str:
    known = " ".join(VOLUME_SUFFIXES if role == "image" else LABEL_SUFFIXES)
    if root.is_file():
        return f"{root}: unknown {role} format; known are {known}"
    return f"{root}: no {role} matches --{role}_glob {pattern.text!r}; known formats are {known}"


def _paths(found: Found) -> list[Path]:
    """Every file of a segmentation."""
    return [file.path for file in found.pieces.values()] or [found.file.path]


def _stated(file: SourceFile) -> str | None:
    return None if file.series is None else file.series.modality


def _of_modality(
    images: Sequence[Found], modality: str | None, root: Path
) -> tuple[list[Found], list[Found]]:
    """Images that may have ``modality``, and DICOM series that say that they have another."""
    fits: list[Found] = []
    left_out: list[Found] = []
    for found in images:
        suits = modality is None or _stated(found.file) in (None, modality)
        (fits if suits else left_out).append(found)
    if not fits:
        stated = sorted({str(_stated(found.file)) for found in left_out})
        raise UserError(
            f"{root}: no DICOM series states {modality}, they state {' and '.join(stated)}; give "
            f"--modality {stated[0]}, or leave the option out"
        )
    return fits, left_out


def _not_of(
    left_out: Iterable[Found], kept: Iterable[Found], labels: Sequence[Found]
) -> list[Found]:
    """Labels without those that refer to series which are left out."""
    others, own = (
        {found.file.series.uid for found in images if found.file.series is not None}
        for images in (left_out, kept)
    )

    def of_others(found: Found) -> bool:
        referred = found.file.series.refers_to if found.file.series is not None else frozenset()
        return bool(referred & others) and not referred & own

    return [found for found in labels if not of_others(found)]


def _paired(
    images: Sequence[Found], labels: Sequence[Found], image: Pattern, label: Pattern
) -> list[Match]:
    if label.names:
        return match(images, labels, image, label)
    named = {titled(found, found.readings[0], image): found for found in images}
    by_file = {found.file: found for found in labels}
    chosen = pair_by_rules(list(named), list(by_file))
    return [
        Match(file, found.readings[0], by_file[chosen[file]] if file in chosen else None)
        for file, found in named.items()
    ]


def _pair(entry: Match, veil: Veil, label_pattern: Pattern, prefix: str) -> Pair:
    image = entry.image
    label = None if entry.label is None else entry.label.file
    return Pair(
        name=prefix + tidy_name(veil.text(image.case)),
        image=image,
        label=label,
        patient=_patient(entry, veil),
        parts="objects" if OBJECT in label_pattern.names else "labels",
        # a process per case need not know all patients of a hospital
        veil=veil.narrowed(file.relative.as_posix() for file in (image, label) if file is not None),
        clear=prefix + image.case,
        problem=entry.problem,
    )


def _patient(entry: Match, veil: Veil) -> str:
    """What tells the patient: the placeholder, else the header."""
    series = entry.image.series
    known = entry.reading.get(PATIENT) or (series.patient if series is not None else "")
    return veil.patient(known) if known and veil.patients is not None else known


def _patients(listings: Iterable[Listing]) -> list[str] | None:
    """Every PatientID and name, None where there is no DICOM file."""
    series = [entry for listing in listings for entry in listing.series]
    if not series:
        return None
    names = {spelling for entry in series for spelling in name_spellings(entry.name)}
    return [*{entry.patient for entry in series}, *names]


def check_names(pairs: Iterable[Pair]) -> None:
    """Makes sure that no two cases have the same name.

    Raises:
        UserError: Two have.
    """
    seen: dict[str, Pair] = {}
    for pair in pairs:
        # Some file systems do not tell upper from lower case.
        other = seen.setdefault(pair.name.lower(), pair)
        if other is not pair:
            raise UserError(
                f"{pair.image.path}: makes a case of the same name as {other.image.path} "
                f"({pair.name}); rename one of them or narrow --image_glob"
            )
