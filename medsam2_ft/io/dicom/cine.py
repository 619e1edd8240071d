"""The frame rate of DICOM cines."""

from pathlib import Path

from medsam2_ft.io.dicom.files import damaged_as_user_error, number, open_dataset

_RATES = ("RecommendedDisplayFrameRate", "CineRate")


def cine_rate(path: Path) -> float | None:
    """Returns the frames per second that a file states, None where it states none.

    Raises:
        UserError: The file cannot be read.
    """
    dataset = open_dataset(path, ["SOPClassUID", "Rows", "FrameTime", *_RATES])
    with damaged_as_user_error(path, "header"):
        frame_ms = number(dataset, "FrameTime")
        if frame_ms is not None and frame_ms > 0:
            return 1000 / frame_ms
        rates = [rate for key in _RATES if (rate := number(dataset, key)) is not None and rate > 0]
    return rates[0] if rates else None
