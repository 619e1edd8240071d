"""One image or one segmentation below an input folder, and what its path says."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from medsam2_ft.io.sources import Source
from medsam2_ft.prepare.naming import (
    MODALITY_WORDS,
    ROLE_WORDS,
    case_name,
    split_words,
    without_roles,
    without_trailing,
)

if TYPE_CHECKING:
    from medsam2_ft.io.dicom import Series


@dataclass(frozen=True)
class SourceFile:
    """A file, or several that belong together, below one of the two input folders.

    Attributes:
        source: What is read.
        relative: Its path below the input folder; the folder of a DICOM series of several files;
            for frames and parts the pattern with all but what tells them apart filled in. The file
            name where the input is one file.
        title: Name of the case that it makes, where ``relative`` does not say it; as the user
            named files and folders, identifiers included.
        series: What DICOM headers say, for pairing.
    """

    source: Source
    relative: PurePath
    title: str = ""
    series: "Series | None" = field(default=None, repr=False, compare=False)

    @property
    def path(self) -> Path:
        """Where it lies: the file, or the folder of several."""
        return self.source.path

    @property
    def case(self) -> str:
        """Name of the case that it makes, identifiers included."""
        return self.title or case_name(self.relative)

    @property
    def folder(self) -> PurePath:
        """The folder below the input folder in which it lies."""
        whole = self.source.kind == "series" and len(self.source.files) > 1
        return self.relative if whole else self.relative.parent

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Words of the folders and the stem, in lower case."""
        return split_words(self.case)

    @cached_property
    def stem(self) -> tuple[str, ...]:
        """Words without a trailing image, seg, mask, ..."""
        return without_trailing(self.words, ROLE_WORDS)

    @cached_property
    def bare(self) -> tuple[str, ...]:
        """Words without a trailing role or modality (ct, mr, t2w, ...)."""
        return without_trailing(self.words, ROLE_WORDS | MODALITY_WORDS)

    def folder_keys(self) -> list[Hashable]:
        """The folder as a key for pairing; none for the input folder itself."""
        return [] if self.folder == PurePath() else [self.folder]

    def subject_keys(self) -> list[Hashable]:
        """The folder without its parts such as ``image`` and ``mask``, as a key for pairing."""
        parts = without_roles(self.folder.parts)
        return [parts] if parts else []
