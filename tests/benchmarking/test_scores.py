"""Scores, tables and figures of one benchmark."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import surface_distance
from numpy.typing import NDArray
from PIL import Image
from result_files import Row, rows_of, slices_of

from medsam2_ft.benchmarking.tables import RESULT_COLUMNS, SLICE_COLUMNS
from medsam2_ft.commands.evaluate import evaluate
from medsam2_ft.io.npz import read_case
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.volume_prompts import prompts_from_labels

pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")


@pytest.fixture(scope="module")
def evaluated(
    mixed: Path, tiny_export: Path, other_export: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("results") / "out"
    models = [str(tiny_export), f"theirs={other_export}"]
    evaluate([mixed], models=models, out=out, strategies=["memory", "box"], device="cpu")
    return out


def saved_masks(case_file: Path, export: Path, strategy: str, out: Path) -> dict[int, Any]:
    """Masks by label after a detour over files."""
    case = read_case(case_file)
    segmenter = Segmenter.from_checkpoint(export, device="cpu")
    prompts = prompts_from_labels(case)
    # an image has no next slice: it is the image predictor's
    how = "box" if len(case.image) == 1 else strategy
    found = segmenter.segment(case, prompts, strategy=how, overlap="keep")  # type: ignore[arg-type]
    np.savez(out, *found.maps)
    with np.load(out) as maps:
        return {p.object_id: sum(maps[k] == p.object_id for k in maps.files) > 0 for p in prompts}


def reference(pred: NDArray[Any], truth: NDArray[Any], row: Row, spacing: Any) -> list[float]:
    """DSC, NSD and HD95 with DeepMind's package, which knows neither frames nor slabs."""
    dsc = 2 * (pred & truth).sum() / (pred.sum() + truth.sum())
    if row["kind"] == "3D":
        pred, truth = (np.pad(m, 1) for m in (pred, truth))
        distances = surface_distance.compute_surface_distances(truth, pred, spacing)
    else:
        frames = [
            surface_distance.compute_surface_distances(t, p, (1, 1))
            for p, t in zip(pred, truth, strict=True)
        ]
        distances = {k: np.concatenate([f[k] for f in frames]) for k in frames[0]}
        for way in ("gt_to_pred", "pred_to_gt"):
            surfels = f"surfel_areas_{way.split('_')[0]}"
            order = np.argsort(distances[f"distances_{way}"], kind="stable")
            distances[f"distances_{way}"] = distances[f"distances_{way}"][order]
            distances[surfels] = distances[surfels][order]
    nsd = surface_distance.compute_surface_dice_at_tolerance(distances, 2)
    return [dsc, nsd, surface_distance.compute_robust_hausdorff(distances, 95)]


@pytest.mark.parametrize("case", ["ct1", "thin", "skin0", "clip", "still"])
@pytest.mark.parametrize("strategy", ["box", "memory"])
def test_scores_equal_those_of_saved_predictions(
    case: str, strategy: str, evaluated: Path, mixed: Path, tiny_export: Path, tmp_path: Path
) -> None:
    masks = saved_masks(mixed / f"{case}.npz", tiny_export, strategy, tmp_path / "masks.npz")
    wanted = [
        row
        for row in rows_of(evaluated)
        if (row["case"], row["model"], row["strategy"]) == (case, "tiny", strategy)
    ]
    assert [int(row["label"]) for row in wanted] == sorted(masks)
    with np.load(mixed / f"{case}.npz") as stored:
        gts, spacing = stored["gts"], stored["spacing"][::-1]
    for row in wanted:
        label, first, last = int(row["label"]), int(row["z0"]), int(row["z1"])
        truth, pred = (m[first : last + 1] for m in (gts == label, masks[label]))
        assert truth.sum() == (gts == label).sum() == int(row["voxels"])
        expected = reference(pred, truth, row, spacing)
        assert [float(row[k]) for k in ("dsc", "nsd", "hd95")] == pytest.approx(expected, abs=1e-9)
        assert row["unit"] == ("mm" if row["kind"] == "3D" else "px")
        for one in slices_of(evaluated):
            same = all(one[k] == row[k] for k in ("case", "model", "strategy", "label"))
            if same:
                z = int(one["slice"])
                p, t = masks[label][z], gts[z] == label
                dsc = 2 * (p & t).sum() / (p.sum() + t.sum()) if (p | t).any() else math.nan
                assert float(one["dsc"] or "nan") == pytest.approx(dsc, nan_ok=True)
                assert int(one["distance"]) == z - int(row["prompt_slice"])
    assert 0 < float(wanted[0]["dsc"]) < 1, "the masks must not be vacuous"


def test_tables_are_whole(evaluated: Path) -> None:
    rows = rows_of(evaluated)
    assert list(rows[0]) == list(RESULT_COLUMNS)
    assert list(slices_of(evaluated)[0]) == list(SLICE_COLUMNS)
    assert len(rows) == 2 * 2 * (2 * 2 + 2 + 2 + 2)  # models, strategies; ct, thin, skin, clips
    kinds = {row["case"]: row["kind"] for row in rows}
    assert (kinds["thin"], kinds["skin0"], kinds["clip"], kinds["still"]) == (
        "3D", "2D", "video", "video",
    )  # fmt: skip
    assert {row["model"] for row in rows} == {"tiny", "theirs"}
    for row in rows:
        seconds, frames = float(row["case_seconds"]), int(row["frames"])
        assert 0 < seconds < 60
        assert float(row["seconds_per_frame"]) == pytest.approx(seconds / frames)
        assert 50 < float(row["peak_rss_mb"]) < 20_000
        assert row["peak_cuda_mb"] == ""
    thin = next(row for row in rows if row["case"] == "thin" and row["label"] == "7")
    assert (thin["z0"], thin["z1"], thin["prompt_slice"], thin["slices"]) == ("1", "1", "1", "4")
    assert thin["frames"] == "2"  # one slice for each of two objects
    summary = json.loads((evaluated / "summary.json").read_text())
    means = {(g["kind"], g["modality"]): g["scores"]["dsc"] for g in summary["groups"]}
    ours = [row for row in rows if (row["model"], row["strategy"]) == ("tiny", "box")]
    found = [
        [float(row["dsc"]) for row in ours if row["case"] == case]
        for case in ("ct0", "ct1", "thin")
    ]
    expected = np.mean([np.mean(values) for values in found])
    assert means["3D", "CT"]["tiny (box)"]["centre"] == pytest.approx(expected)


def test_figures_are_drawn(evaluated: Path) -> None:
    names = ["comparison", "boxes_dsc", "boxes_nsd", "distance", "cases/tiny__box_-CT-3D"]
    for name in names:
        with Image.open(evaluated / "figures" / f"{name}.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(pixels, axis=0)) > 50, name
    assert len(list((evaluated / "figures" / "cases").iterdir())) == 3 * 4  # kinds, columns
