"""What a file is by its first bytes, for files whose name does not say it."""

from pathlib import Path

_DICOM_PREAMBLE = 128


def is_dicom(path: Path) -> bool:
    """Returns whether a file starts as a DICOM file does: 128 bytes, then ``DICM``.

    False for what is no regular file or cannot be read.
    """
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(_DICOM_PREAMBLE + 4)[_DICOM_PREAMBLE:] == b"DICM"
    except OSError:
        return False
