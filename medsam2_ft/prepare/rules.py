"""Which label file belongs to which image, by what DICOM refers to, names and folders."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from medsam2_ft.errors import UserError
from medsam2_ft.prepare.naming import runs_of, without_channel
from medsam2_ft.prepare.sources import SourceFile

_SHOWN = 3  # how many files a message names

# An image and a label file fit where they share a key.
_Keys = Callable[[SourceFile], Iterable[Hashable]]


def _prefixes(file: SourceFile) -> list[Hashable]:
    return [file.words[:end] for end in range(1, len(file.words) + 1)]


def _own_series(image: SourceFile) -> list[Hashable]:
    return [image.series.uid] if image.series is not None and image.series.uid else []


def _referred_series(label: SourceFile) -> Iterable[Hashable]:
    return () if label.series is None else label.series.refers_to


def _frame_of_reference(file: SourceFile) -> list[Hashable]:
    frame = "" if file.series is None else file.series.frame_of_reference
    return [frame] if frame else []


# Keys of an image and of a label, from the strictest rule to the loosest; the first that fits
# decides, and a label that it took is not offered to the rules after it.
_NAME_RULES: tuple[tuple[_Keys, _Keys], ...] = (
    (lambda image: [image.words], lambda label: [label.words]),
    (lambda image: [image.stem], lambda label: [label.stem]),
    (lambda image: [without_channel(image.stem)], lambda label: [label.stem]),
    (lambda image: [image.stem], _prefixes),
    (lambda image: [image.bare], lambda label: [label.bare]),
    (lambda image: [image.bare], lambda label: runs_of(label.words)),
    (lambda image: runs_of(image.words), lambda label: [label.bare]),
    (SourceFile.folder_keys, SourceFile.folder_keys),
    (SourceFile.subject_keys, SourceFile.subject_keys),
)


def pair_by_rules(
    images: Sequence[SourceFile], labels: Sequence[SourceFile]
) -> dict[SourceFile, SourceFile]:
    """Returns the label file of every image that has one; an only pair always fits.

    Raises:
        UserError: Several label files fit one image.
    """
    if len(images) == len(labels) == 1:
        return {images[0]: labels[0]}
    frames = Counter(key for image in images for key in _frame_of_reference(image))

    def only_one_in_frame(image: SourceFile) -> list[Hashable]:
        # CT and PET of one study share their frame of reference: it then says nothing.
        return [key for key in _frame_of_reference(image) if frames[key] == 1]

    chosen: dict[SourceFile, SourceFile] = {}
    dicom = ((_own_series, _referred_series), (only_one_in_frame, _frame_of_reference))
    for image_keys, label_keys in (*dicom, *_NAME_RULES):
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
