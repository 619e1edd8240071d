"""Contact sheets of what was prepared, one for each modality: people look rather than read."""

from pathlib import Path

FOLDER = "preview"
_MOST = 24  # cases on a sheet


def draw_sheets(out: Path) -> None:
    """Draws ``OUT/preview/MODALITY.png`` of all cases below ``out``, unless they are up to date.

    Args:
        out: Folder of one data set, or of several; without cases nothing is drawn.

    Raises:
        UserError: A picture cannot be written.
    """
    cases = [path for path in out.rglob("*.npz") if not _hidden(path.relative_to(out))]
    drawn = [path.stat().st_mtime_ns for path in (out / FOLDER).glob("*.png")]
    if not cases or (drawn and max(path.stat().st_mtime_ns for path in cases) <= min(drawn)):
        return
    from medsam2_ft.inspection.preview import preview
    from medsam2_ft.io.npz import case_header

    target = out / FOLDER
    if len(cases) == 1:  # which preview would name like the case
        target /= f"{case_header(cases[0]).modality}.png"
    preview([out], out=target, max_cases=_MOST)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
