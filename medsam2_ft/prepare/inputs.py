"""Inputs of a run: folders, which of their files count, and how cases are made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam2_ft.errors import UserError
from medsam2_ft.io.orient import Slices
from medsam2_ft.prepare.build import Job
from medsam2_ft.prepare.jobs import make_jobs
from medsam2_ft.prepare.naming import tidy_name
from medsam2_ft.prepare.pairing import (
    ANY_FILE,
    NothingFoundError,
    Sources,
    check_names,
    find_sources,
)
from medsam2_ft.prepare.patients import Veil, joined_veil, salt_of
from medsam2_ft.prepare.settings import Settings, cleanup_from, make_settings
from medsam2_ft.types import Modality


@dataclass(frozen=True)
class Input:
    """Images, their labels, and how cases are made of them: the options of ``prepare``.

    Attributes:
        images: Folder of images, or one.
        labels: Folder of label files, or one.
        modality: See ``prepare``, as for all that follow.
        window: CT preset, or level/width.
        label_names: File with names.
        drop_labels: Ids that become background.
        instances_of: Ids that are split.
        min_voxels_3d: Smallest object.
        min_pixels_2d: Smallest part in a slice.
        label_rules: Rules, or the file that holds them.
        slices: Which way slices lie.
        channel: Channel or time point of 4-D images.
        video: Whether the third axis is time.
        image_glob: Which files are images.
        label_glob: Which files are labels.
        name_prefix: Before every case name.
        group: Pattern of the patient in a case's name.
    """

    images: Path
    labels: Path
    modality: Modality | None = None
    window: str | None = None
    label_names: Path | None = None
    drop_labels: list[int] | None = None
    instances_of: list[int] | None = None
    min_voxels_3d: int = 0
    min_pixels_2d: int = 0
    label_rules: Path | Mapping[str, Any] | None = None
    slices: Slices = "stored"
    channel: int | None = None
    video: bool = False
    image_glob: str = ANY_FILE
    label_glob: str = ANY_FILE
    name_prefix: str = ""
    group: str | None = None

    def settings(self) -> Settings:
        """Checks the options and reads the files that they name.

        Raises:
            UserError: See ``make_settings``.
        """
        prefix = self.name_prefix
        if prefix != tidy_name(prefix) or prefix.startswith("."):
            raise UserError(
                f"--name_prefix {prefix!r} is no part of a file name; use letters, digits and _-+."
            )
        cleanup = cleanup_from(
            self.drop_labels, self.instances_of, self.min_voxels_3d, self.min_pixels_2d
        )
        return make_settings(
            self.modality,
            self.window,
            cleanup,
            self.label_names,
            label_rules=self.label_rules,
            slices=self.slices,
            channel=self.channel,
            video=self.video,
        )


@dataclass(frozen=True)
class Work:
    """What the inputs of a run hold.

    Attributes:
        jobs: One for each case.
        unused_labels: See ``Sources``.
        left_out: See ``Sources``.
        absent: ``image_glob`` of inputs that have no image.
        veil: Keeps the identifiers of all inputs out of what is written.
        group: The pattern of the patient where all inputs have the same.
    """

    jobs: tuple[Job, ...]
    unused_labels: tuple[str, ...]
    left_out: tuple[str, ...]
    absent: tuple[str, ...]
    veil: Veil
    group: str | None


def find_work(inputs: Sequence[Input], out: Path) -> Work:
    """Finds the cases of all inputs.

    Args:
        inputs: At least one. Of several, some may have no image: releases of a data set differ.
        out: Output folder.

    Raises:
        NothingFoundError: None of the inputs has an image.
        UserError: An option is wrong, an input does not exist, or two images would make cases of
            the same name.
    """
    settings = [entry.settings() for entry in inputs]  # complains before anything is searched
    salt = salt_of(out)
    jobs: list[Job] = []
    found: list[tuple[Input, Sources]] = []
    absent: dict[str, NothingFoundError] = {}
    for entry, made in zip(inputs, settings, strict=True):
        try:
            sources = _sources(entry, out, salt)
        except NothingFoundError as error:
            absent[entry.image_glob] = error
            continue
        found.append((entry, sources))
        jobs += make_jobs(sources.pairs, made, entry.images, out, entry.group)
    if not found:
        raise next(iter(absent.values()))
    check_names([job.pair for job in jobs])
    return Work(
        jobs=tuple(jobs),
        unused_labels=_unused(found),
        left_out=tuple(sorted({name for _, sources in found for name in sources.left_out})),
        absent=tuple(absent),
        veil=joined_veil(salt, (sources.veil for _, sources in found)),
        group=inputs[0].group if len({entry.group for entry in inputs}) == 1 else None,
    )


def _sources(entry: Input, out: Path, salt: bytes) -> Sources:
    return find_sources(
        entry.images,
        entry.labels,
        image_glob=entry.image_glob,
        label_glob=entry.label_glob,
        exclude=out,
        modality=entry.modality,
        name_prefix=entry.name_prefix,
        salt=salt,
    )


def _unused(found: Sequence[tuple[Input, Sources]]) -> tuple[str, ...]:
    """Label files that no input uses."""
    used, unused = set(), set()
    for entry, sources in found:
        folder = entry.labels.resolve()
        used |= {(folder, name) for name in sources.used_labels}
        unused |= {(folder, name) for name in sources.unused_labels}
    return tuple(sorted({name for _, name in unused - used}))
