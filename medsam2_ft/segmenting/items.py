"""What is segmented: one image, or the images of a folder."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import rule_for_modality
from medsam2_ft.io import (
    ARCHIVE_SUFFIXES,
    DICOM_SUFFIXES,
    VIDEO_SUFFIXES,
    file_stem,
    file_suffix,
    read_labels,
    read_volume,
)
from medsam2_ft.io.npz import read_case
from medsam2_ft.io.signatures import is_dicom
from medsam2_ft.io.sources import Source
from medsam2_ft.prepare.grid import on_image_grid
from medsam2_ft.prepare.naming import tidy_name
from medsam2_ft.prepare.pairing import ANY_FILE, Pair, find_sources
from medsam2_ft.segmenting.placement import Grid
from medsam2_ft.types import Case, Geometry, IntensityRule, LabelVolume, Volume

VOLUME_RATE = Fraction(10)
"""Frames per second of a film through slices, and of frames that state no rate."""


@dataclass(frozen=True)
class Item:
    """One image to segment.

    Attributes:
        name: Stem of what is written, and its name in prompt files.
        source: What is read.
        labels: Where its labels are, for simulated prompts.
        pair: The same as ``prepare`` sees it, for checksums; None for a single image.
    """

    name: str
    source: Source
    labels: Source | None = None
    pair: Pair | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read for it."""
        return (*self.source.all_files, *(() if self.labels is None else self.labels.all_files))


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Attributes:
        modality: Of images that do not say theirs.
        window: CT preset or level/width.
        channel: Of 4-D images.
    """

    modality: str | None = None
    window: str | None = None
    channel: int | None = None


@dataclass(frozen=True)
class Image:
    """An image that was read.

    Attributes:
        data: An npz case as it is stored, anything else as a volume.
        rule: How it becomes 0-255, where that is given.
    """

    data: Volume | Case
    rule: IntensityRule | None = None

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Extents."""
        array = self.data.image if isinstance(self.data, Case) else self.data.array
        return array.shape[0], array.shape[1], array.shape[2]

    def grid(self, axis: int) -> Grid:
        """Returns what prompts are placed on."""
        known = self.volume.has_geometry
        return Grid(self.shape_zyx, self.data.geometry, known, axis)

    @property
    def volume(self) -> Volume:
        """The image as a volume; a case's 0-255 values."""
        if isinstance(self.data, Volume):
            return self.data
        case = self.data
        return Volume(
            case.image, case.geometry, case.geometry != Geometry(), case.is_video, case.modality
        )


def single_item(source: Path, labels: Path | None) -> Item:
    """Makes an item of one image: a file, or a folder with one DICOM series or one video.

    Raises:
        UserError: There is no such file, or no label file in the folder of labels belongs to it.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; check the path")
    resolved = source.resolve()
    name = resolved.name if source.is_dir() else file_stem(source)
    if labels is None or labels.is_file():
        return Item(tidy_name(name), Source(source), None if labels is None else Source(labels))
    if source.is_dir():
        raise UserError(f"--from_labels {labels}: give the label file of {source}, not a folder")
    (item,) = batch_items(source, labels, Path(), None)
    return replace(item, name=tidy_name(name))


def batch_items(images: Path, labels: Path | None, out: Path, modality: str | None) -> list[Item]:
    """Finds the images of a folder and the label file of each.

    Args:
        images: Folder, searched with those below it, or one file.
        labels: Folder of labels, or the same one; None where no labels are needed. Files that are
            labels by their name are no images.
        out: Not searched.
        modality: DICOM series that state another one are left out.

    Returns:
        By name. The names are those of the files and their folders.

    Raises:
        UserError: No image, or two that would have one name.
    """
    found = find_sources(
        images, labels, image_glob=ANY_FILE, label_glob=ANY_FILE, exclude=out, modality=modality
    )
    items: dict[str, Item] = {}
    for pair in found.pairs:
        name = tidy_name(pair.clear)
        own = None if pair.label is None else pair.label.source
        if items.setdefault(name.lower(), Item(name, pair.image.source, own, pair)).pair != pair:
            raise UserError(f"{pair.image.path}: another image is called {name}, too; rename one")
    return sorted(items.values(), key=lambda item: item.name)


def read_image(item: Item, how: Reading) -> Image:
    """Reads an image and decides about its intensities.

    Raises:
        UserError: It cannot be read, its modality is neither stated nor given (or another), or a
            window or channel that cannot apply.
    """
    path = item.source.path
    if file_suffix(path) == ".npz":
        if how.window is not None or how.channel is not None:
            option = "window" if how.window is not None else "channel"
            raise UserError(
                f"{path}: npz images are 0-255 already, so that --{option} cannot apply; leave it "
                "out, or give the original image"
            )
        return Image(read_case(path))
    volume = read_volume(item.source, channel=how.channel)
    if how.modality is not None:
        if volume.modality not in (None, how.modality):
            raise UserError(
                f"{path}: is {volume.modality} by its header, not {how.modality}; leave "
                "--modality out"
            )
        volume = replace(volume, modality=how.modality)
    if how.window is not None:
        if volume.array.ndim == 4:
            raise UserError(f"{path}: is in colour, so that --window cannot apply; leave it out")
        window = how.window.replace(",", "/")
        return Image(volume, rule_for_modality(volume.modality, window, volume.array.dtype))
    if volume.modality is None and volume.array.dtype != "uint8":
        raise UserError(
            f"{path}: does not say its modality, which decides how {volume.array.dtype} values "
            "become 0-255; give --modality (CT, MR, PET, ...) or --window"
        )
    return Image(volume)


def labels_for(item: Item, image: Image) -> LabelVolume:
    """Reads the labels of an image, on its grid.

    Raises:
        UserError: There are none, they cannot be read, or lie elsewhere.
    """
    if item.labels is None:
        if isinstance(image.data, Case) and image.data.label_maps:
            case = image.data
            return LabelVolume(case.label_maps, case.label_names, case.geometry)
        raise UserError(f"{item.source.path}: no label file belongs to it; check --from_labels")
    labels = read_labels(item.labels, like=image.volume)
    return on_image_grid(image.volume, labels, str(item.source.path), str(item.labels.path))


@contextmanager
def dicom_files(source: Source) -> Iterator[Sequence[Path]]:
    """Yields the files of the DICOM series that an image was read from.

    Raises:
        UserError: It was no DICOM series.
    """
    path = source.path
    if not may_be_dicom(source):
        raise UserError(
            f"{path}: is not DICOM, and a DICOM SEG refers to DICOM images; choose .seg.nrrd, "
            ".nii.gz or another format"
        )
    if source.kind == "series" or (path.is_file() and file_suffix(path) not in ARCHIVE_SUFFIXES):
        yield source.all_files
    elif path.is_dir():
        yield _series_files(path)
    else:
        from medsam2_ft.io.archive import unpacked

        with unpacked(path) as folder:
            yield _series_files(folder)


def may_be_dicom(source: Source) -> bool:
    """Whether a source can hold DICOM images; of folders and archives only reading them tells."""
    path = source.path
    if source.kind == "series" or path.is_dir():
        return True
    return file_suffix(path) in (*DICOM_SUFFIXES, *ARCHIVE_SUFFIXES) or is_dicom(path)


def _series_files(folder: Path) -> Sequence[Path]:
    from medsam2_ft.io.dicom import scan

    images = [series for series in scan(folder) if series.kind == "image"]
    if len(images) != 1:
        raise UserError(f"{folder}: holds {len(images)} DICOM images and not one; give its folder")
    return images[0].files


def frame_rate(source: Source, image: Image) -> Fraction:
    """Returns the frames per second of a video, where it states them, else ``VOLUME_RATE``."""
    path = source.path
    rate: Fraction | float | None = None
    if path.is_file() and file_suffix(path) in VIDEO_SUFFIXES:
        from medsam2_ft.io.video import frame_rate as video_rate

        rate = video_rate(path)
    elif image.volume.is_video and may_be_dicom(source) and source.all_files[0].is_file():
        from medsam2_ft.io.dicom.cine import cine_rate

        rate = cine_rate(source.all_files[0])
    return Fraction(rate).limit_denominator(1001) if rate else VOLUME_RATE


def named(labels: LabelVolume, names: Mapping[int, str]) -> LabelVolume:
    """Returns labels with names; those that are given win."""
    return replace(labels, label_names=dict(labels.label_names) | dict(names))
