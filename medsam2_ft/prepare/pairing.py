"""Finds the source files and says which label file belongs to which image."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from medsam2_ft.errors import UserError
from medsam2_ft.io import LABEL_SUFFIXES, VOLUME_SUFFIXES, file_suffix
from medsam2_ft.io.sources import Source
from medsam2_ft.prepare.naming import case_name, looks_like_label, runs_of, without_channel
from medsam2_ft.prepare.sources import SourceFile

ANY_FILE = "**/*"
_SHOWN = 3  # how many files a message names


@dataclass(frozen=True)
class Pair:
    """One case to be made.

    Attributes:
        name: Name of the case and stem of its npz file.
        image: Image file.
        label: Its label file; None where none was found (an npz may hold its own).
    """

    name: str
    image: SourceFile
    label: SourceFile | None


@dataclass(frozen=True)
class Sources:
    """What the input folders hold.

    Attributes:
        pairs: One entry per image, sorted by name.
        unused_labels: Label files that belong to no image, relative to their folder, sorted.
    """

    pairs: tuple[Pair, ...]
    unused_labels: tuple[str, ...]


# An image and a label file fit where they share a key.
_Keys = Callable[[SourceFile], Iterable[Hashable]]


def _folder(file: SourceFile) -> list[Hashable]:
    parent = file.relative.parent
    return [] if parent == PurePath() else [parent]


def _prefixes(file: SourceFile) -> list[Hashable]:
    return [file.words[:end] for end in range(1, len(file.words) + 1)]


# Keys of an image and of a label, from the strictest rule to the loosest; the first that fits
# decides, and a label that it took is not offered to the rules after it.
_RULES: tuple[tuple[_Keys, _Keys], ...] = (
    (lambda image: [image.words], lambda label: [label.words]),
    (lambda image: [image.stem], lambda label: [label.stem]),
    (lambda image: [without_channel(image.stem)], lambda label: [label.stem]),
    (lambda image: [image.stem], _prefixes),
    (lambda image: [image.bare], lambda label: [label.bare]),
    (lambda image: [image.bare], lambda label: runs_of(label.words)),
    (lambda image: runs_of(image.words), lambda label: [label.bare]),
    (_folder, _folder),
)


def find_sources(
    images: Path, labels: Path, *, image_glob: str, label_glob: str, exclude: Path
) -> Sources:
    """Finds images and labels and pairs them.

    Args:
        images: Folder or single file.
        labels: Folder or single file. The image folder again where labels lie beside the images:
            then a label file is one whose name says so (seg, mask, label, gt, ...).
        image_glob: Which files below ``images`` count.
        label_glob: Which files below ``labels`` count.
        exclude: Folder that is not searched (the output).

    Returns:
        The pairs, and the label files that were left over.

    Raises:
        UserError: An input does not exist or holds nothing readable, several label files fit one
            image, or two images would make cases of the same name.
    """
    found = _find(images, image_glob, exclude, "image")
    label_files = _find_labels(images, labels, label_glob, exclude)
    taken = {file.path.resolve() for file in label_files}
    beside = images.is_dir() and labels.resolve() == images.resolve() and image_glob == ANY_FILE
    image_files = [
        file
        for file in found
        if file.path.resolve() not in taken and not (beside and looks_like_label(file.relative))
    ]
    if not image_files:
        raise UserError(
            f"{images}: every file counts as a label file by its name; say which are images with "
            "--image_glob and which are labels with --label_glob"
        )
    alone = len(image_files) == len(label_files) == 1
    chosen = {image_files[0]: label_files[0]} if alone else _pair(image_files, label_files)
    pairs = [Pair(case_name(file.relative), file, chosen.get(file)) for file in image_files]
    _check_names(pairs)
    used = set(chosen.values())
    unused = sorted(file.relative.as_posix() for file in label_files if file not in used)
    return Sources(tuple(sorted(pairs, key=lambda pair: pair.name)), tuple(unused))


def _find_labels(
    images: Path, labels: Path | None, pattern: str, exclude: Path
) -> list[SourceFile]:
    beside = labels is None or labels.resolve() == images.resolve()
    if beside and images.is_file():
        return []
    files = _find(labels or images, pattern, exclude, "label")
    if beside and pattern == ANY_FILE:
        return [file for file in files if looks_like_label(file.relative)]
    return files


def _find(source: Path, pattern: str, exclude: Path, role: str) -> list[SourceFile]:
    """Lists readable files below ``source``, sorted; hidden files and ``exclude`` are left out."""
    suffixes = VOLUME_SUFFIXES if role == "image" else LABEL_SUFFIXES
    if source.is_file():
        if file_suffix(source) not in suffixes:
            raise UserError(f"{source}: unknown {role} format; known are {' '.join(suffixes)}")
        return [SourceFile(Source(source), PurePath(source.name))]
    if not source.is_dir():
        raise UserError(f"{source}: there is no such {role} file or folder")
    skip = exclude.resolve()
    files = []
    for path in sorted(source.glob(pattern)):
        relative = path.relative_to(source)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or file_suffix(path) not in suffixes or not path.is_file():
            continue
        if skip not in path.resolve().parents:
            files.append(SourceFile(Source(path), PurePath(relative)))
    if not files:
        raise UserError(
            f"{source}: no {role} matches --{role}_glob {pattern!r}; known formats are "
            f"{' '.join(suffixes)}"
        )
    return files


def _pair(
    images: Sequence[SourceFile], labels: Sequence[SourceFile]
) -> dict[SourceFile, SourceFile]:
    chosen: dict[SourceFile, SourceFile] = {}
    for image_keys, label_keys in _RULES:
        taken = set(chosen.values())
        index: dict[Hashable, list[SourceFile]] = defaultdict(list)
        for label in labels:
            if label not in taken:
                for key in label_keys(label):
                    index[key].append(label)
        for image in images:
            if image not in chosen:
                fits = list(dict.fromkeys(f for key in image_keys(image) for f in index[key]))
                _check_one(image, fits)
                if fits:
                    chosen[image] = fits[0]
    return chosen


def _check_one(image: SourceFile, fits: Sequence[SourceFile]) -> None:
    if len(fits) > 1:
        named = ", ".join(file.relative.as_posix() for file in fits[:_SHOWN])
        more = f" and {len(fits) - _SHOWN} more" if len(fits) > _SHOWN else ""
        raise UserError(
            f"{image.path}: {len(fits)} label files fit this image ({named}{more}); choose with "
            "--label_glob, or name each label file like its image"
        )


def _check_names(pairs: Iterable[Pair]) -> None:
    seen: dict[str, Pair] = {}
    for pair in pairs:
        # Some file systems do not tell upper from lower case.
        other = seen.setdefault(pair.name.lower(), pair)
        if other is not pair:
            raise UserError(
                f"{pair.image.path}: makes a case of the same name as {other.image.path} "
                f"({pair.name}); rename one of them or narrow --image_glob"
            )
