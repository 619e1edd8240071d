"""``medsam2-ft evaluate``: models against each other on labelled cases."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from medsam2_ft.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medsam2_ft.benchmarking.folder import Run
    from medsam2_ft.propagate import Strategy

Choice = TypeVar("Choice", bound=str)

STRATEGIES: "Final[tuple[Strategy, ...]]" = ("box", "memory")


def evaluate(
    data: list[Path],
    *,
    models: list[str] | None = None,
    out: Path | None = None,
    strategies: list[str] | None = None,
    protocol: Literal["middle", "paper"] = "middle",
    z_range: Literal["object", "full"] = "object",
    margin_px: float = 5.0,
    box_noise_px: int = 0,
    seed: int = 0,
    tolerance_mm: float = 2.0,
    tolerance_px: float = 2.0,
    tolerances: str = "",
    regions: bool = False,
    splits: list[str] | None = None,
    limit: int | None = None,
    image_size: int | None = None,
    device: str = "auto",
    workers: int = 1,
    shard: str | None = None,
    figures: bool = True,
    overlays: int = 3,
) -> None:
    """Scores models on npz cases, each object prompted by one box, and compares them.

    Writes results.csv (a row per case, label, model and strategy), slices.csv.gz, summary.json,
    summary.md and figures. Run again after an interruption, or with more models, it does only
    what is missing. A case that cannot be used is listed, and makes the exit code 2 in the end.

    Args:
        data: Folders of npz cases; each is a data set.
        models: Names of official models or baselines, or files (.pt, .ckpt); as NAME=FILE with
            the name that tables show. One whose weights are missing is skipped and listed.
        out: Folder for the results.
        strategies: box, memory, or both; by default what suits each model.
        protocol: middle is the box of the object's middle slice; paper is what arXiv 2408.03322
            does.
        z_range: Segment and score the object's own slices, or all slices (full).
        margin_px: Margin around prompt boxes in pixels of a 1024 input.
        box_noise_px: Each side of a prompt box moves at random by up to so many pixels of a 1024
            input.
        seed: Of the box noise.
        tolerance_mm: Of the NSD in volumes.
        tolerance_px: Of the NSD in images and videos.
        tolerances: Of the NSD by modality, such as CT=2,endoscopy=3, in mm for volumes and pixels
            for the others.
        regions: Also score the regions that cases name, beside the labels that make them up.
        splits: Splits that count, such as test val; by default test where a folder has splits,
            else all cases.
        limit: At most so many cases of each data set.
        image_size: Side of the models' input; by default each model's own.
        device: auto, cpu, cuda, cuda:1, ...
        workers: Number of processes; each loads the models one after the other.
        shard: Part of the cases, such as 2/8 for the second of eight jobs; all write into the same
            --out, and the last one merges them.
        figures: Draw figures; report draws them later.
        overlays: How many of the worst and of the best cases of each model and modality are drawn.

    Raises:
        UserError: There are no such cases or models, an option makes no sense, or some cases
            could not be evaluated.
    """
    if out is None:
        raise UserError("--out is missing; give a folder for the results")
    if not models:
        raise UserError("--models is missing; give names or files, such as sam2.1_hiera_tiny")
    _check_numbers(workers=workers, limit=limit, image_size=image_size, overlays=overlays)

    from medsam2_ft.benchmarking.cases import find_sources, parse_shard
    from medsam2_ft.benchmarking.contenders import line_up
    from medsam2_ft.benchmarking.run import Request, run_benchmark
    from medsam2_ft.benchmarking.settings import Settings, check_settings, parse_tolerances
    from medsam2_ft.data.splits import SPLITS

    settings = Settings(
        protocol=protocol,
        z_range=z_range,
        margin_px=margin_px,
        box_noise_px=box_noise_px,
        seed=seed,
        tolerance_mm=tolerance_mm,
        tolerance_px=tolerance_px,
        tolerances=parse_tolerances(tolerances),
        regions=regions,
    )
    check_settings(settings)
    part = None if shard is None else parse_shard(shard)
    wanted = None if splits is None else chosen("splits", splits, SPLITS)
    ways = None if strategies is None else chosen("strategies", strategies, STRATEGIES)
    cases = find_sources(data, wanted, limit)
    lineup = line_up(models, ways, image_size=image_size, device=device)
    for name, reason in lineup.skipped.items():
        print(f"skipped {name}: {reason}", flush=True)
    threads = 0 if workers == 1 else max(1, (os.cpu_count() or 1) // workers)
    run = run_benchmark(
        Request(cases, lineup, settings, out, part, workers, threads, figures, overlays)
    )
    print(f"results in {out}: see summary.md" if part is None else f"results in {out}")
    fail_for(run)


def _check_numbers(**numbers: int | None) -> None:
    """Refuses counts below 1; no overlays are fine.

    Raises:
        UserError: Names the option.
    """
    for name, value in numbers.items():
        least = 0 if name == "overlays" else 1
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}; it must be at least {least}")


def chosen(option: str, given: "Sequence[str]", known: "Sequence[Choice]") -> "list[Choice]":
    """Returns the known values that are given, in the order of ``known``.

    Raises:
        UserError: One is not known.
    """
    for value in given:
        if value not in known:
            raise UserError(f"--{option} {value}: choose from {', '.join(known)}")
    return [value for value in known if value in given]


def fail_for(run: "Run") -> None:
    """Ends the command with exit code 2 where results failed.

    Raises:
        UserError: Names the first of them.
    """
    failed = [record for record in run.records if record.status == "failed"]
    if failed:
        first = failed[0]
        raise UserError(
            f"{len(failed)} of {len(run.records)} results failed and are listed in summary.md, the "
            f"first: {first.dataset}/{first.case}, {first.model}: {first.reason}"
        )
