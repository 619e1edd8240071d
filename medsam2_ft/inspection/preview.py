"""``medsam2-ft preview``: contact sheets of cases, and of images that are not prepared yet."""

import sys
from pathlib import Path

from medsam2_ft.entry import one_line
from medsam2_ft.errors import UserError
from medsam2_ft.types import Modality

SOFTWARE = "medsam2-ft preview"
"""Stored in every sheet; a file that says so may be replaced."""


def preview(
    cases: list[Path],
    *,
    out: Path | None = None,
    slices: int = 6,
    per_case: bool = False,
    max_cases: int = 12,
    modality: Modality | None = None,
    window: str | None = None,
    labels: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Draws contact sheets: slices of each case with labels, boxes, names and the intensity rule.

    One case gives one picture, several give one picture per modality. An image that is not an npz
    case (NIfTI, NRRD, DICOM, PNG, video, ...) is drawn as `prepare` would make it, so that windows
    can be tried: medsam2-ft preview ct.nii.gz --labels seg.nii.gz --modality CT --window lung

    Args:
        cases: npz cases, folders of them, or images of any format that `prepare` reads.
        out: PNG file, or folder for several pictures. By default preview.png or the folder preview.
        slices: The most slices of a volume, or frames of a video.
        per_case: One picture per case.
        max_cases: The most cases on one picture; of more, some are taken at even distances.
        modality: Modality of images that do not say it; decides how intensities become 0-255.
        window: CT: soft_tissue (the default), lung, brain or bone. Any modality: level/width in
            the image's own units, such as 40/400 (--window=-600/1500 where it starts with a minus).
        labels: Label file of an image that is not an npz case.
        overwrite: Replace files that no preview has made.

    Raises:
        UserError: A file cannot be read, an option does not fit, or a picture cannot be written.
    """
    from medsam2_ft.inspection.plan import check_replaceable, find_items, plan_sheets, target_files
    from medsam2_ft.inspection.sheet import draw_case, draw_cases
    from medsam2_ft.inspection.unprepared import Conversion
    from medsam2_ft.overlays import write_png

    for name, value in (("slices", slices), ("max_cases", max_cases)):
        if value < 1:
            raise UserError(f"--{name} is {value}; it must be at least 1")
    conversion = Conversion(modality, window, labels)
    items = find_items(cases, modality, _warn)
    conversion.check([item.path for item in items if not item.is_case], len(items))
    sheets = plan_sheets(items, max_cases, per_case=per_case)
    targets = target_files([sheet.name for sheet in sheets], out)
    for target in () if overwrite else targets:
        check_replaceable(target, SOFTWARE)
    for sheet, target in zip(sheets, targets, strict=True):
        alone = len(sheet.items) == 1
        blocks = []
        for item in sheet.items:
            try:
                blocks.append(draw_case(item.read(conversion), slices, alone=alone))
            except UserError as error:
                if len(items) == 1:
                    raise
                _warn(error)
        if blocks:
            write_png(target, blocks[0] if alone else draw_cases(sheet.title, blocks), SOFTWARE)
            print(target)


def _warn(error: UserError) -> None:
    """Names a case that is left out; the others are drawn all the same."""
    print(f"left out: {one_line(error)}", file=sys.stderr)
