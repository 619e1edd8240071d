"""Images and label files found by patterns: what belongs to one image, and to one another."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from medsam2_ft.errors import UserError
from medsam2_ft.io.frames import natural_key
from medsam2_ft.io.sources import Source, SourceKind
from medsam2_ft.prepare.naming import tidy_name
from medsam2_ft.prepare.patterns import FRAME, LABEL, OBJECT, SPECIAL, Binding, Pattern
from medsam2_ft.prepare.sources import SourceFile

_SHOWN = 3  # how many files a message names


@dataclass(frozen=True)
class Found:
    """An image or a segmentation that a pattern found.

    Attributes:
        file: What is read.
        readings: How its path can be read; a video or a segmentation of parts has one way.
        pieces: Of a video or of parts: the file of each frame, label or object.
    """

    file: SourceFile
    readings: tuple[Binding, ...]
    pieces: Mapping[str, SourceFile] = field(default_factory=dict)


def find_images(files: Sequence[SourceFile], pattern: Pattern) -> list[Found]:
    """Returns the images that a pattern finds, frames of a video as one.

    Raises:
        UserError: The pattern is too vague, or two files are the same frame.
    """
    wrong = [name for name in pattern.names if name in (LABEL, OBJECT)]
    if wrong:
        raise UserError(
            f"{pattern.option} {pattern.text!r}: {{{wrong[0]}}} belongs to --label_glob; choose "
            "another name"
        )
    if FRAME in pattern.names:
        return _gathered(files, pattern, FRAME, "frames")
    return _single(files, pattern)


def find_labels(files: Sequence[SourceFile], pattern: Pattern) -> list[Found]:
    """Returns the segmentations that a pattern finds, parts and frames of one as one.

    Raises:
        UserError: The pattern is too vague, or two files are the same part.
    """
    special = [name for name in pattern.names if name in SPECIAL]
    if len(special) > 1:
        raise UserError(
            f"{pattern.option} {pattern.text!r}: {{{special[0]}}} and {{{special[1]}}} cannot be "
            "combined; merge the files of one first"
        )
    if not special:
        return _single(files, pattern)
    return _gathered(files, pattern, special[0], "frames" if special[0] == FRAME else "parts")


def _single(files: Iterable[SourceFile], pattern: Pattern) -> list[Found]:
    read = ((file, _readings(file, pattern)) for file in files)
    return [Found(file, tuple(readings)) for file, readings in read if readings]


def _readings(file: SourceFile, pattern: Pattern) -> list[Binding]:
    """How the path can be read; of a DICOM series what all of its files have in common."""
    if file.source.kind != "series" or len(file.source.files) < 2:
        return pattern.readings(file.relative.as_posix())
    below = len(file.source.path.parts) - len(file.relative.parts)
    paths = ["/".join(path.parts[below:]) for path in file.source.files]
    readings = pattern.readings(paths[0])
    others = [reading for path in paths[1:] for reading in pattern.readings(path)[:1]]
    return [
        {k: v for k, v in reading.items() if all(other.get(k) == v for other in others)}
        for reading in readings
    ]


def _gathered(
    files: Iterable[SourceFile], pattern: Pattern, by: str, kind: SourceKind
) -> list[Found]:
    """Gathers files that differ only in the placeholder ``by``."""
    groups: dict[tuple[tuple[str, str], ...], dict[str, SourceFile]] = defaultdict(dict)
    for file in files:
        readings = pattern.readings(file.relative.as_posix())
        # Frames must not fall into two videos; a part may wait for the image that claims it.
        for reading in readings[:1] if by == FRAME else readings:
            rest = tuple(sorted((k, v) for k, v in reading.items() if k != by))
            other = groups[rest].setdefault(reading[by], file)
            if other is not file:
                raise UserError(
                    f"{file.path}: has the same {{{by}}} as {other.path} under {pattern.option} "
                    f"{pattern.text!r}; narrow the pattern"
                )
    return [_one(dict(rest), pieces, pattern, kind) for rest, pieces in groups.items()]


def _one(
    rest: Binding, pieces: Mapping[str, SourceFile], pattern: Pattern, kind: SourceKind
) -> Found:
    ordered = dict(sorted(pieces.items(), key=lambda item: natural_key(Path(item[0]))))
    files = tuple(file.path for file in ordered.values())
    folder = files[0].parent
    while not all(path.is_relative_to(folder) for path in files):
        folder = folder.parent
    source = Source(folder, files, kind, names=tuple(ordered) if kind == "parts" else ())
    return Found(SourceFile(source, PurePath(pattern.filled(rest))), (rest,), ordered)


@dataclass(frozen=True)
class Match:
    """An image and what belongs to it.

    Attributes:
        image: The image, under the name that its placeholders give it.
        reading: How its path is read.
        label: Its segmentation, if it has one.
        problem: Why no case can be made of the two, empty where one can.
    """

    image: SourceFile
    reading: Binding
    label: Found | None
    problem: str = ""


def match(
    images: Sequence[Found], labels: Sequence[Found], image: Pattern, label: Pattern
) -> list[Match]:
    """Pairs images and labels that have the same text for the placeholders that both know.

    Args:
        images: From ``find_images``.
        labels: From ``find_labels``.
        image: Pattern of the images.
        label: Pattern of the labels.

    Returns:
        One entry for each image.

    Raises:
        UserError: The patterns share no placeholder, several labels fit one image, or one label
            could be read in two ways.
    """
    shared = [n for n in image.names if n in label.names and n not in SPECIAL]
    if not shared and (len(images), len(labels)) != (1, 1):
        raise UserError(
            f"--image_glob {image.text!r} and --label_glob {label.text!r} share no placeholder "
            "that tells the cases apart; use one in both, such as {case}"
        )
    index: dict[tuple[str, ...], list[Found]] = defaultdict(list)
    for found in labels:
        for key in {_key(found, reading, shared) for reading in found.readings}:
            index[key].append(found)
    result = []
    used: dict[Path, tuple[str, ...]] = {}
    for found in images:
        # of the ways that lead to one label, the first counts
        fits = {
            id(entry): (reading, entry)
            for reading in reversed(found.readings)
            for entry in index.get(_key(found, reading, shared), ())
        }
        _check_one(found, [entry for _, entry in fits.values()])
        reading, entry = next(iter(fits.values()), (found.readings[0], None))
        problem = ""
        if entry is not None:
            problem = _frames_problem(found, entry)
            _check_read_once(entry, _key(found, reading, shared), used)
        result.append(Match(titled(found, reading, image), reading, entry, problem))
    return result


def _key(found: Found, reading: Binding, shared: Sequence[str]) -> tuple[str, ...]:
    missing = [name for name in shared if name not in reading]
    if missing:
        raise UserError(
            f"{found.file.path}: {{{missing[0]}}} differs between the files of one DICOM series; "
            "use it for a folder, or for single files"
        )
    return tuple(reading[name] for name in shared)


def titled(found: Found, reading: Binding, pattern: Pattern) -> SourceFile:
    """Returns the image under the name that its placeholders give it.

    They name it where they tell all files apart; otherwise the path does, but for a video, whose
    path is not that of one file.
    """
    if not pattern.names or (pattern.wild and FRAME not in pattern.names):
        return found.file
    texts = [reading[name] for name in pattern.names if name != FRAME and name in reading]
    title = tidy_name("_".join(texts)) or found.file.path.name
    return replace(found.file, title=title)


def _check_one(image: Found, fits: Sequence[Found]) -> None:
    if len(fits) > 1:
        named = ", ".join(found.file.relative.as_posix() for found in fits[:_SHOWN])
        more = f" and {len(fits) - _SHOWN} more" if len(fits) > _SHOWN else ""
        raise UserError(
            f"{image.file.path}: {len(fits)} segmentations fit this image ({named}{more}); make "
            "the patterns more exact, for example by another placeholder that both share"
        )


def _check_read_once(label: Found, key: tuple[str, ...], used: dict[Path, tuple[str, ...]]) -> None:
    for file in label.pieces.values() or (label.file,):
        other = used.setdefault(file.path, key)
        if other != key:
            raise UserError(
                f"{file.path}: could belong to {' '.join(other)!r} and to {' '.join(key)!r}; put "
                "fixed text between the placeholders of --label_glob"
            )


def _frames_problem(image: Found, label: Found) -> str:
    """Says which frame lacks a mask, or which mask a frame, where both are files."""
    if image.file.source.kind != "frames" or label.file.source.kind != "frames":
        return ""
    frames, masks = image.pieces, label.pieces
    bare = [frame for frame in frames if frame not in masks]
    if bare:
        return (
            f"{image.file.path}: {len(bare)} of {len(frames)} frames have no mask, such as "
            f"{frames[bare[0]].path.name}; give a mask for each (an empty one where nothing is "
            "to be seen), or leave these frames out by a narrower --image_glob"
        )
    lone = [frame for frame in masks if frame not in frames]
    if lone:
        return (
            f"{label.file.path}: {len(lone)} of {len(masks)} masks belong to no frame, such as "
            f"{masks[lone[0]].path.name}; add the frames, or narrow --label_glob"
        )
    return ""
