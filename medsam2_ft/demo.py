"""``medsam2-ft demo``: from a real chest CT to exported weights and a picture, without setup."""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from medsam2_ft.errors import UserError
from medsam2_ft.types import Case, LabelVolume, Volume

if TYPE_CHECKING:
    from medsam2_ft.sam2_adapter import Sam2

HELD_OUT_EVERY = 4  # one slice in four is never trained on
LUNGS = ("right lung", "left lung")
MIN_AREA_PX = 100
SUMMARY_FILE = "summary.json"
VARIANT = "sam2.1_hiera_tiny"


@dataclass(frozen=True)
class DemoSummary:
    """What the demo measured.

    Attributes:
        slice_dsc_before: Mean DSC over held-out (slice, lung) pairs of at least 100 pixels, start
            weights, tight boxes, native grid, Meta's default settings.
        slice_dsc_after: The same with the exported weights.
        slice_dsc_box: The same for the filled box, no model.
        volume_dsc_before: Mean DSC of the two lungs, propagated through the whole scan from one
            box each, start weights.
        volume_nsd_before: The same for NSD at 2 mm.
        volume_dsc: As ``volume_dsc_before`` with the exported weights. Three slices in four were
            trained on.
        volume_nsd: The same for NSD at 2 mm.
        seconds: Wall time of the start that finished, installation not counted.
        export: The exported weights, relative to the repository.
        overlay: The picture, relative to the repository.
        weights: What training started from, ``pretrained`` or ``random``.
        variant: SAM2 model.
        image_size: Side of its input in pixels.
    """

    slice_dsc_before: float
    slice_dsc_after: float
    slice_dsc_box: float
    volume_dsc_before: float
    volume_nsd_before: float
    volume_dsc: float
    volume_nsd: float
    seconds: float
    export: str
    overlay: str
    weights: str
    variant: str
    image_size: int


def demo(run: Path = Path("runs/demo")) -> DemoSummary:
    """Fine-tunes SAM2.1-Tiny on the lungs of one chest CT and shows the result.

    Starts from Meta's weights if they are in checkpoints/ or can be downloaded, else from random
    ones. A second call shows what the first one found; an interrupted one goes on where it was.
    One patient, split by slices: this shows that the machinery works and says nothing about
    accuracy on other patients.

    Args:
        run: Folder for data, checkpoints, exports and pictures.

    Returns:
        What was measured; also in summary.json in the run folder.

    Raises:
        UserError: slicerio is not installed, or the command does not run in the repository.
    """
    summary = _finished(run)
    if summary is None:
        start_s = time.perf_counter()
        _write_cases(run / "data")
        weights = start_weights()
        _train(run, weights)
        summary = _measure(run, weights, start_s)
    else:
        print(f"{run} is complete already; delete it to run the demo again")
    _print(summary, run)
    return summary


def _finished(run: Path) -> DemoSummary | None:
    """Reads the summary of a complete earlier run whose files are still there."""
    file = run / SUMMARY_FILE
    if not file.is_file():
        return None
    summary = DemoSummary(**json.loads(file.read_text()))
    complete = all(Path(path).is_file() for path in (summary.export, summary.overlay))
    return summary if complete else None


def read_scan() -> tuple[Volume, LabelVolume]:
    """Reads the chest CT (128 x 128 x 34) and its segments that slicerio carries.

    Raises:
        UserError: slicerio is not installed.
    """
    try:
        import slicerio
    except ImportError as error:
        raise UserError(
            "the demo's scan comes with slicerio, which is missing: pip install medsam2-ft[demo]"
        ) from error
    from medsam2_ft.io import read_labels, read_volume

    folder = Path(slicerio.__file__).parent / "data"
    return read_volume(folder / "CTChest4.nrrd"), read_labels(folder / "Segmentation.seg.nrrd")


def scan_case() -> Case:
    """Returns the whole scan as a case with the two lungs as its labels."""
    from medsam2_ft.intensity import apply_rule, rule_for_modality

    volume, segments = read_scan()
    rule = rule_for_modality("CT", window="lung")
    names = {label: name for label, name in segments.label_names.items() if name in LUNGS}
    labels = np.where(np.isin(segments.maps[0], list(names)), segments.maps[0], 0)
    return Case(
        name="chest",
        image=apply_rule(volume.array, rule),
        label_maps=(labels.astype(np.uint8),),
        geometry=volume.geometry,
        modality="CT",
        label_names=names,
        intensity=rule,
    )


def held_out(n_slices: int) -> list[int]:
    """Returns the slices that are never trained on: every fourth, from the middle of the first."""
    return list(range(HELD_OUT_EVERY // 2, n_slices, HELD_OUT_EVERY))


def _write_cases(folder: Path) -> None:
    """Writes the training slices, the held-out slices and the whole scan as three cases."""
    from medsam2_ft.io.atomic import make_folder
    from medsam2_ft.io.npz import write_case

    whole = scan_case()
    n_slices = len(whole.image)
    parts = {
        "train": [z for z in range(n_slices) if z not in held_out(n_slices)],
        "val": held_out(n_slices),
        "test": list(range(n_slices)),
    }
    for split, slices in parts.items():
        target = make_folder(folder / split) / f"CT_chest_{split}.npz"
        labels = tuple(labels[slices] for labels in whole.label_maps)
        part = replace(whole, name=target.stem, image=whole.image[slices], label_maps=labels)
        write_case(target, part)
    print(f"wrote one chest CT as cases below {folder}: {len(parts['train'])} slices to train on,")
    print(f"  {len(parts['val'])} held out; one patient, so no claim about others")


def start_weights() -> Literal["pretrained", "random"]:
    """Says where training starts: Meta's weights, or random ones where they cannot be had."""
    from medsam2_ft.weights import resolve_weights

    try:
        print(f"starting from Meta's weights: {resolve_weights('pretrained', VARIANT)}")
    except UserError as error:
        print(
            f"{error}\nTRAINING FROM RANDOM WEIGHTS: without Meta's, the demo starts from nothing"
        )
        return "random"
    return "pretrained"


def _train(run: Path, weights: str) -> None:
    from medsam2_ft.checkpointing import RESUME_NEWEST
    from medsam2_ft.cli import main
    from medsam2_ft.installation import configs_folder

    overlays = ("demo", "scratch") if weights == "random" else ("demo",)
    values = {"run": run, "data.data_dir": run / "data", "model.variant": VARIANT}
    main(
        [
            "fit",
            *(f"--config={configs_folder() / name}.yaml" for name in overlays),
            *(f"--{key}={value}" for key, value in values.items()),
            f"--ckpt_path={RESUME_NEWEST}",
        ]
    )


def _measure(run: Path, weights: str, start_s: float) -> DemoSummary:
    """Scores start and exported weights, draws held-out slices, writes the summary."""
    import torch

    from medsam2_ft.callbacks.export import export_folder
    from medsam2_ft.evaluate import score_slices, score_volume
    from medsam2_ft.io.atomic import write_json
    from medsam2_ft.sam2_adapter import build_model

    exported = export_folder(run) / "last.pt"
    sidecar = json.loads(exported.with_suffix(".json").read_text())
    image_size = sidecar["image_size"]
    case = scan_case()
    slices = held_out(len(case.image))
    torch.manual_seed(0)
    untrained = build_model(VARIANT, image_size=image_size, weights=weights)
    before = score_slices(untrained, case, slices=slices, min_area_px=MIN_AREA_PX)
    volume_before = score_volume(untrained, case)
    trained = build_model(VARIANT, image_size=image_size, weights=str(exported))
    after = score_slices(trained, case, slices=slices, min_area_px=MIN_AREA_PX)
    volume = score_volume(trained, case)
    overlay = _draw(trained, case, slices, run / "overlay.png")
    summary = DemoSummary(
        slice_dsc_before=float(np.mean([score.dsc for score in before])),
        slice_dsc_after=float(np.mean([score.dsc for score in after])),
        slice_dsc_box=float(np.mean([score.dsc_box for score in after])),
        volume_dsc_before=float(np.mean([score.dsc for score in volume_before])),
        volume_nsd_before=float(np.mean([score.nsd for score in volume_before])),
        volume_dsc=float(np.mean([score.dsc for score in volume])),
        volume_nsd=float(np.mean([score.nsd for score in volume])),
        seconds=time.perf_counter() - start_s,
        export=str(exported),
        overlay=str(overlay),
        weights=weights,
        variant=VARIANT,
        image_size=image_size,
    )
    write_json(run / SUMMARY_FILE, asdict(summary))
    return summary


def _draw(model: "Sam2", case: Case, slices: list[int], target: Path) -> Path:
    """Draws held-out slices: box and truth above, what the model makes of the boxes below."""
    from medsam2_ft.evaluate import predict_slice
    from medsam2_ft.metrics import dice
    from medsam2_ft.overlays import (
        WHITE,
        BoxLayer,
        MaskLayer,
        Panel,
        color_of,
        render_grid,
        write_png,
    )
    from medsam2_ft.prompts import mask_to_box

    upper, lower = [], []
    for z in shown_slices(case, slices):
        masks = [case.label_maps[0][z] == label for label in sorted(case.label_names)]
        boxes = np.stack([box for mask in masks if (box := mask_to_box(mask)) is not None])
        predicted = predict_slice(model, case.image[z], boxes)
        scores = " ".join(f"{dice(p, m):.2f}" for p, m in zip(predicted, masks, strict=True))
        truth = [MaskLayer(mask, color_of(i), "fill") for i, mask in enumerate(masks)]
        box_layers = [BoxLayer(box, color_of(i)) for i, box in enumerate(boxes)]
        fills = [MaskLayer(mask, color_of(i), "fill") for i, mask in enumerate(predicted)]
        outlines = [MaskLayer(mask, WHITE) for mask in masks]
        upper.append(Panel(case.image[z], f"held-out slice {z}: box and truth", truth, box_layers))
        lower.append(Panel(case.image[z], f"prediction, DSC {scores}", [*fills, *outlines]))
    write_png(target, render_grid([*upper, *lower], columns=len(upper), side_px=288))
    return target


def shown_slices(case: Case, slices: list[int]) -> list[int]:
    """Returns three of ``slices`` that show every label, evenly spaced."""
    whole = [z for z in slices if set(case.label_names) <= set(np.unique(case.label_maps[0][z]))]
    return [whole[i] for i in np.linspace(0, len(whole) - 1, 3).round().astype(int)]


def _print(summary: DemoSummary, run: Path) -> None:
    """Says what was reached and where everything lies."""
    from medsam2_ft.checkpointing import checkpoint_folder
    from medsam2_ft.run_log import METRICS_FILE

    s = summary
    start = f"{s.weights} weights"
    rows = [
        ("mean of both lungs", start, "fine-tuned", "filled box"),
        ("held-out slices, DSC", s.slice_dsc_before, s.slice_dsc_after, s.slice_dsc_box),
        ("whole scan from one box each, DSC", s.volume_dsc_before, s.volume_dsc, ""),
        ("whole scan, NSD at 2 mm", s.volume_nsd_before, s.volume_nsd, ""),
    ]
    print()
    for name, *cells in rows:
        texts = [f"{cell:.3f}" if isinstance(cell, float) else cell for cell in cells]
        print(f"{name:<35}" + "".join(f"{text:>20}" for text in texts))
    print(
        f"""
One patient: this shows that it works, not how well on others. The scores of the whole scan contain
the slices trained on.

picture      {summary.overlay}
weights      {summary.export}  (loads in Meta's sam2; the .json beside it says how)
checkpoints  {checkpoint_folder(run)}
curves       {run / METRICS_FILE}
summary      {run / SUMMARY_FILE}  ({summary.seconds:.0f} s)"""
    )
