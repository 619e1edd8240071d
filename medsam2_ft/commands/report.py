"""``medsam2-ft report``: merges results folders and draws the comparison again."""

from pathlib import Path

from medsam2_ft.errors import UserError


def report(folders: list[Path], *, out: Path | None = None, overlays: int = 3) -> None:
    """Merges results of evaluate: shards of one run, or runs of different models.

    Runs are compared only if they have the same cases, prompts and settings; else the command
    says what differs.

    Args:
        folders: Results folders. A folder with shards is merged from them.
        out: Folder for tables and figures; by default the only folder given.
        overlays: How many of the worst and of the best cases of each model and modality are drawn;
            the case files must be where they were.

    Raises:
        UserError: A folder holds no results, a shard is missing, or runs cannot be compared.
    """
    if overlays < 0:
        raise UserError(f"--overlays is {overlays}; it must be 0 or more")
    if out is None and len(folders) > 1:
        raise UserError("--out is missing; give a folder for the merged results")
    target = folders[0] if out is None else out

    from medsam2_ft.benchmarking.folder import merge_runs
    from medsam2_ft.benchmarking.writing import write_pictures, write_tables

    run = merge_runs(folders)
    benchmark = write_tables(target, run)
    for line in [*run.notes, *write_pictures(target, benchmark, overlays)]:
        print(line)
    print(f"{len(run.records)} results of {len(run.plan.models)} models: see {target}/summary.md")
