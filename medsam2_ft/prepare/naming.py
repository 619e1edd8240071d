"""What a file's name says: its stem, its words, and whether it looks like a label file."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePath

from medsam2_ft.io.atomic import file_stem, file_suffix

# fmt: off
IMAGE_WORDS = frozenset({"image", "images", "img", "imgs", "scan", "volume", "vol", "orig"})
LABEL_WORDS = frozenset({
    "seg", "segs", "segm", "segmentation", "segmentations", "mask", "masks", "label", "labels",
    "labeled", "labelled", "labelmap", "gt", "gts", "groundtruth", "annotation", "annotations",
    "roi", "contour", "contours", "manual",
})
MODALITY_WORDS = frozenset({
    "ct", "cta", "cect", "mr", "mri", "mra", "pet", "pt", "suv", "us", "t1", "t1w", "t1c", "t1ce",
    "t1gd", "t2", "t2w", "flair", "dwi", "adc", "dce",
})
# fmt: on
ROLE_WORDS = IMAGE_WORDS | LABEL_WORDS
# Folders that say what lies in them and nothing about the patient, such as nnU-Net's labelsTr.
_SETS = ("", "tr", "ts", "va")
IMAGE_FOLDERS = frozenset(word + end for word in IMAGE_WORDS for end in _SETS)
LABEL_FOLDERS = frozenset(word + end for word in LABEL_WORDS for end in _SETS)

_CHANNEL = re.compile(r"\d{4}")
_SEPARATORS = re.compile(r"[^a-z0-9]+")
_AWKWARD = re.compile(r"[^\w.+-]+")


def case_name(relative: PurePath) -> str:
    """Returns the name of the case that a source file makes.

    Args:
        relative: File below the input folder; ``patient_1/ct.nii.gz`` gives ``patient_1_ct``, so
            that equal file names in folders per patient stay apart. Folders such as ``images`` or
            ``labelsTr`` are left out.

    Returns:
        Folders and stem joined by ``_``, without the suffix; runs of characters that are awkward
        in file names (spaces, brackets, ...) become ``-``.
    """
    stem = file_stem(Path(relative.name))
    return tidy_name("_".join((*without_roles(relative.parts[:-1]), stem)))


def tidy_name(text: str) -> str:
    """Returns ``text`` with ``-`` for runs of characters that are awkward in file names."""
    return _AWKWARD.sub("-", text)


def without_roles(parts: Iterable[str]) -> tuple[str, ...]:
    """Returns folders without those that say what lies in them, such as ``images``."""
    roles = IMAGE_FOLDERS | LABEL_FOLDERS
    return tuple(part for part in parts if part.lower() not in roles)


def words_of(relative: PurePath) -> tuple[str, ...]:
    """Returns the words of ``case_name`` in lower case: ``sub-spleen2_ct`` -> sub, spleen2, ct."""
    return split_words(case_name(relative))


def split_words(name: str) -> tuple[str, ...]:
    """Returns the words of a name in lower case."""
    return tuple(word for word in _SEPARATORS.split(name.lower()) if word)


def without_trailing(words: tuple[str, ...], drop: Collection[str]) -> tuple[str, ...]:
    """Returns ``words`` without those of ``drop`` at its end; the first word always stays."""
    end = len(words)
    while end > 1 and words[end - 1] in drop:
        end -= 1
    return words[:end]


def without_channel(words: tuple[str, ...]) -> tuple[str, ...]:
    """Returns ``words`` without a last word of four digits, nnU-Net's channel number."""
    return words[:-1] if len(words) > 1 and _CHANNEL.fullmatch(words[-1]) else words


def runs_of(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Returns every run of neighbouring words: (a, b) -> (a,), (b,), (a, b)."""
    ends = range(1, len(words) + 1)
    return {words[start:end] for end in ends for start in range(end)}


def looks_like_label(relative: PurePath) -> bool:
    """Returns whether a path says that the file holds labels: ``x_seg.nii``, ``labelsTr/x.nii``.

    A word such as seg, mask, label or gt anywhere in the file's name counts, a folder only where
    its whole name is such a word, and ``.seg.nrrd`` always.
    """
    folders = {part.lower() for part in relative.parts[:-1]}
    if file_suffix(Path(relative.name)) == ".seg.nrrd" or not LABEL_FOLDERS.isdisjoint(folders):
        return True
    return not LABEL_WORDS.isdisjoint(words_of(PurePath(relative.name)))
