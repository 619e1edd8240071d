"""``medsam2-ft inspect``: what a folder of npz cases holds, and what is wrong with it."""

from pathlib import Path
from typing import Literal

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import make_folder, write_json


def inspect(
    folder: Path,
    *,
    json: Path | None = None,
    figure: Path | None = None,
    split: Literal["train", "val", "test"] | None = None,
    cases: bool = False,
    min_voxels: int = 10,
    workers: int | None = None,
) -> None:
    """Shows what a folder of npz cases holds: modalities, sizes, labels, gray values, problems.

    Finds, among others, files that cannot be read, one image in two splits, labels with two
    names, and labels that are tiny or missing. Problems are listed and do not fail the command.

    Args:
        folder: Folder of npz cases; those of its subfolders count, too.
        json: File for everything that was found, case by case.
        figure: PNG file for a figure: cases, sizes, spacings, label volumes, gray values.
        split: Only the cases of this split.
        cases: Also show one line per case.
        min_voxels: Labels with fewer voxels (in a 2D image or a video: pixels) are reported.
        workers: Cases that are read at a time; by default one per core, as far as memory allows.

    Raises:
        UserError: There is no such folder, it holds no readable case, or an output cannot be
            written.
    """
    from medsam2_ft.inspection.folder import find_case_files, measure_files
    from medsam2_ft.inspection.problems import find_problems
    from medsam2_ft.inspection.summary import to_json
    from medsam2_ft.inspection.tables import (
        make_console,
        print_cases,
        print_labels,
        print_modalities,
        print_problems,
        progress,
    )
    from medsam2_ft.prepare.pool import default_workers

    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}; it must be at least 1")
    if figure is not None and figure.suffix.lower() != ".png":
        raise UserError(f"--figure {figure}: is a PNG file; give a name that ends in .png")
    console = make_console()
    files = find_case_files(folder, split)
    with progress(console, len(files)) as advance:
        facts, unreadable = measure_files(files, workers or default_workers(), advance)
    if not facts:
        first = unreadable[0].reason
        raise UserError(f"{folder}: none of its {len(files)} npz files is a case; {first}")
    problems = find_problems(facts, unreadable, min_voxels)
    print_modalities(console, facts)
    print_labels(console, facts)
    if cases:
        print_cases(console, facts)
    print_problems(console, problems)
    if json is not None:
        make_folder(json.parent)
        write_json(json, to_json(str(folder), facts, unreadable, problems))
    if figure is not None:
        from medsam2_ft.inspection.figure import write_figure

        make_folder(figure.parent)
        write_figure(figure, facts)
