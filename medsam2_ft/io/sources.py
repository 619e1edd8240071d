"""What one image, or one segmentation, is read from: a file, or several that belong together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SourceKind = Literal["file", "series", "frames", "parts"]


@dataclass(frozen=True)
class Source:
    """One image or one segmentation on disk.

    Attributes:
        path: The file; where there are several, the folder that holds them.
        files: The files in reading order; empty where ``path`` is the only one.
        kind: ``file``: the suffix decides the format, a folder or a zip archive holds one DICOM
            series or one video as frames. ``series``: the DICOM files of one series, in any order.
            ``frames``: one picture for each frame of a video. ``parts``: one label file for each
            object or each label.
        names: For parts: what each file is, where its stem does not say it.
    """

    path: Path
    files: tuple[Path, ...] = ()
    kind: SourceKind = "file"
    names: tuple[str, ...] = ()

    @property
    def all_files(self) -> tuple[Path, ...]:
        """Every file that is read."""
        return self.files or (self.path,)


def as_source(source: Path | str | Source) -> Source:
    """Returns a path as a source of one file."""
    return source if isinstance(source, Source) else Source(Path(source))
