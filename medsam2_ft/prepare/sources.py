"""One image or one segmentation below an input folder, and what its path says."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from medsam2_ft.io.sources import Source
from medsam2_ft.prepare.naming import MODALITY_WORDS, ROLE_WORDS, without_trailing, words_of


@dataclass(frozen=True)
class SourceFile:
    """A file, or several that belong together, below one of the two input folders.

    Attributes:
        source: What is read.
        relative: Its path below the input folder; the file name where the input is one file.
    """

    source: Source
    relative: PurePath

    @property
    def path(self) -> Path:
        """Where it lies: the file, or the folder of several."""
        return self.source.path

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Words of the folders and the stem, in lower case."""
        return words_of(self.relative)

    @cached_property
    def stem(self) -> tuple[str, ...]:
        """Words without a trailing image, seg, mask, ..."""
        return without_trailing(self.words, ROLE_WORDS)

    @cached_property
    def bare(self) -> tuple[str, ...]:
        """Words without a trailing role or modality (ct, mr, t2w, ...)."""
        return without_trailing(self.words, ROLE_WORDS | MODALITY_WORDS)
