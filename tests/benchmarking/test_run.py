"""The commands from end to end: scores, resuming, awkward cases, shards, merging."""

import csv
import gzip
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import surface_distance
from conftest import write_model
from numpy.typing import NDArray
from PIL import Image

from medsam2_ft.benchmarking import run as run_module
from medsam2_ft.benchmarking.jobs import Job, load
from medsam2_ft.benchmarking.jobs import run_job as real_run_job
from medsam2_ft.benchmarking.records import Journal, Record
from medsam2_ft.benchmarking.tables import RESULT_COLUMNS, SLICE_COLUMNS
from medsam2_ft.commands.evaluate import evaluate
from medsam2_ft.commands.report import report
from medsam2_ft.errors import UserError
from medsam2_ft.io.npz import read_case
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.volume_prompts import prompts_from_labels

pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")

Row = dict[str, str]
COSTS = ("case_seconds", "seconds_per_frame", "peak_rss_mb", "peak_cuda_mb")


def rows_of(out: Path) -> list[Row]:
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def scores_of(out: Path) -> list[Row]:
    """All rows without what differs from run to run."""
    return [{k: v for k, v in row.items() if k not in COSTS} for row in rows_of(out)]


def slices_of(out: Path) -> list[Row]:
    with gzip.open(out / "slices.csv.gz", "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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


def count_jobs(monkeypatch: pytest.MonkeyPatch, stop_after: int = 1000) -> list[Job]:
    """Notes the jobs that are done from now on, and acts as Ctrl-C in the one after the last."""
    done: list[Job] = []

    def run_job(job: Job) -> Record:
        if len(done) == stop_after:
            raise KeyboardInterrupt
        done.append(job)
        return real_run_job(job)

    monkeypatch.setattr(run_module, "run_job", run_job)
    return done


def test_only_what_has_changed_is_done_again(
    volumes: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = volumes(3), tmp_path / "out"
    model = write_model(tmp_path / "m.pt")
    done = count_jobs(monkeypatch)

    def again(**options: Any) -> list[str]:
        done.clear()
        evaluate([data], models=[str(model)], out=out, device="cpu", figures=False, **options)
        return [job.case.name for job in done]

    names = ["case0", "case1", "case2"]
    assert again() == names
    first = scores_of(out)
    assert again() == []
    assert scores_of(out) == first
    assert again(strategies=["memory"]) == names
    assert len(rows_of(out)) == 6  # the earlier strategy stays in the tables
    (data / "case1.npz").write_bytes((data / "case2.npz").read_bytes())
    assert again() == ["case1"]
    changed = {row["case"]: row["dsc"] for row in rows_of(out)}
    assert changed["case1"] == changed["case2"]
    assert again(box_noise_px=200) == names
    assert {row["x0"] for row in rows_of(out)} != {row["x0"] for row in first}
    write_model(model, seed=9)
    assert again(box_noise_px=200) == names
    assert len(rows_of(out)) == 3


def test_weights_that_change_meanwhile_are_noticed(
    volumes: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "m.pt")

    def run_job(job: Job) -> Record:
        write_model(model, seed=7)
        load(job.contender.where, anew=True)  # as a new process does
        return real_run_job(job)

    monkeypatch.setattr(run_module, "run_job", run_job)
    with pytest.raises(UserError, match=r"m\.pt: changed during the run"):
        evaluate([volumes(1)], models=[str(model)], out=tmp_path / "out", figures=False)


def test_an_interrupted_run_goes_on(
    volumes: Callable[[int], Path], tiny_export: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = volumes(4)
    done = count_jobs(monkeypatch, stop_after=2)
    options: dict[str, Any] = {"models": [str(tiny_export)], "device": "cpu", "figures": False}
    with pytest.raises(KeyboardInterrupt):
        evaluate([data], out=tmp_path / "out", **options)
    assert "2 of 4 results are finished" in capsys.readouterr().out
    early = [job.case.name for job in done]
    done = count_jobs(monkeypatch)
    evaluate([data], out=tmp_path / "out", **options)
    assert sorted([*early, *(job.case.name for job in done)]) == [f"case{i}" for i in range(4)]
    evaluate([data], out=tmp_path / "whole", **options)
    assert scores_of(tmp_path / "out") == scores_of(tmp_path / "whole")
    assert slices_of(tmp_path / "out") == slices_of(tmp_path / "whole")


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
def test_ctrl_c_in_a_process(
    volumes: Callable[[int], Path], tiny_export: Path, tmp_path: Path
) -> None:
    data, out = volumes(40), tmp_path / "out"
    args = [str(data), "--models", str(tiny_export), "--out", str(out), "--no_figures"]
    command = [sys.executable, "-m", "medsam2_ft", "evaluate", *args, "--device", "cpu"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[2/40]"):
            process.send_signal(signal.SIGINT)
            break
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    kept = len(Journal(out).read())
    assert 2 <= kept < 40
    assert f"{kept} of 40 results are finished" in rest


def test_awkward_cases_are_listed(
    volumes: Callable[[int], Path], tiny_export: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data, out = volumes(2), tmp_path / "out"
    (data / "broken.npz").write_bytes(b"PK no zip")
    np.savez(data / "void.npz", imgs=np.zeros((2, 9, 9), np.uint8), gts=np.zeros((2, 9, 9), int))
    np.savez(data / "bare.npz", imgs=np.zeros((9, 9), np.uint8))
    models = [str(tiny_export), "absent.pt", f"lost={tmp_path / 'gone.ckpt'}"]
    with pytest.raises(UserError, match=r"1 of 5 results failed.*data/broken, tiny: .*broken\.npz"):
        evaluate([data], models=models, out=out, device="cpu")
    shown = capsys.readouterr().out
    assert "skipped absent.pt: absent.pt: no such model and no such file" in shown
    rows = {row["case"]: row for row in rows_of(out)}
    status = {name: row["status"] for name, row in rows.items()}
    assert status == {
        "case0": "scored", "case1": "scored", "broken": "failed", "void": "empty", "bare": "empty",
    }  # fmt: skip
    assert "broken.npz" in rows["broken"]["reason"]
    assert rows["broken"]["dsc"] == rows["void"]["dsc"] == ""
    summary = (out / "summary.md").read_text()
    assert "- data: bare\n- data: void" in summary
    assert "- lost: " in summary
    assert "| data | broken | tiny | box |" in summary
    (group,) = json.loads((out / "summary.json").read_text())["groups"]
    assert (group["cases"], group["scores"]["dsc"]["tiny"]["n"]) == (2, 2)


@pytest.mark.slow
def test_workers_find_the_same(
    volumes: Callable[[int], Path], tiny_export: Path, tmp_path: Path
) -> None:
    data = volumes(3)
    for workers in (1, 2):
        evaluate(
            [data], models=[str(tiny_export), "random:tiny_test"], out=tmp_path / str(workers),
            device="cpu", figures=False, workers=workers, strategies=["box"],
        )  # fmt: skip
    assert scores_of(tmp_path / "1") == scores_of(tmp_path / "2")
    assert "random weights, whose scores say nothing" in (tmp_path / "1/summary.md").read_text()


def test_shards_merge_to_the_table_of_one_run(
    mixed: Path, tiny_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"models": [str(tiny_export)], "device": "cpu", "figures": False}
    evaluate([mixed], out=tmp_path / "whole", **options)
    out = tmp_path / "parts"
    for number in (3, 1):
        evaluate([mixed], out=out, shard=f"{number}/3", **options)
    assert not (out / "results.csv").exists()
    assert "2 of 3 shards are finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="shards 2 of 3 are not finished"):
        report([out])
    evaluate([mixed], out=out, shard="2/3", **options)
    assert scores_of(out) == scores_of(tmp_path / "whole")
    assert slices_of(out) == slices_of(tmp_path / "whole")
    parts = [len(rows_of(out / "shards" / f"{n}-of-3")) for n in (1, 2, 3)]
    assert sum(parts) == len(rows_of(out))
    assert sorted(parts)[1] > 0
    whole, merged = (
        json.loads((f / "summary.json").read_text()) for f in (tmp_path / "whole", out)
    )
    assert merged["groups"] == whole["groups"]
    (out / "results.csv").unlink()
    report([out], overlays=1)
    assert (out / "figures/comparison.png").is_file()
    assert scores_of(out) == scores_of(tmp_path / "whole")
    with pytest.raises(UserError, match="holds shards"):
        evaluate([mixed], out=out, **options)
    with pytest.raises(UserError, match="3 and 4 parts"):
        evaluate([mixed], out=out, shard="1/4", **options)


def test_runs_of_different_models_are_merged(
    volumes: Callable[[int], Path], tiny_export: Path, other_export: Path, tmp_path: Path
) -> None:
    data = volumes(7)
    options: dict[str, Any] = {"device": "cpu", "figures": False}
    evaluate([data], models=[str(tiny_export), str(other_export)], out=tmp_path / "both", **options)
    evaluate([data], models=[str(tiny_export)], out=tmp_path / "a", **options)
    evaluate([data], models=[str(other_export)], out=tmp_path / "b", **options)
    report([tmp_path / "a", tmp_path / "b"], out=tmp_path / "merged", overlays=0)
    assert scores_of(tmp_path / "merged") == scores_of(tmp_path / "both")
    merged = json.loads((tmp_path / "merged/summary.json").read_text())
    (group,) = merged["groups"]
    assert group["differences"][0]["test"]["n"] == 7
    assert 0 < group["differences"][0]["p_holm"] <= 1
    assert (tmp_path / "merged/figures/comparison.png").is_file()


def test_what_cannot_be_compared_is_refused(
    volumes: Callable[[int], Path], tiny_export: Path, other_export: Path, tmp_path: Path
) -> None:
    data = volumes(3)
    one: dict[str, Any] = {"models": [str(tiny_export)], "device": "cpu", "figures": False}
    other = one | {"models": [str(other_export)]}
    evaluate([data], out=tmp_path / "a", **one)
    evaluate([data], out=tmp_path / "noise", box_noise_px=9, **other)
    evaluate([data], out=tmp_path / "fewer", limit=2, **other)
    evaluate([data], out=tmp_path / "same_name", **one | {"models": [f"tiny={other_export}"]})
    for name, said in (
        ("noise", "box_noise_px 0 and 9"),
        ("fewer", r"1 cases only in the first \(data/case2"),
        ("same_name", "tiny is not the same model"),
        ("absent", "holds no results"),
    ):
        with pytest.raises(UserError, match=said):
            report([tmp_path / "a", tmp_path / name], out=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    with pytest.raises(UserError, match="--out is missing"):
        report([tmp_path / "a", tmp_path / "noise"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"out": None}, "--out is missing"),
        ({"models": None}, "--models is missing"),
        ({"workers": 0}, "--workers is 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"overlays": -1}, "--overlays is -1"),
        ({"strategies": ["boxes"]}, "--strategies boxes: choose from box, memory"),
        ({"splits": ["all"]}, "--splits all: choose from train"),
        ({"shard": "3/2"}, "--shard 3/2"),
        ({"models": ["absent.pt"]}, "no model to evaluate: absent.pt"),
        ({"tolerance_mm": -1.0}, "--tolerance_mm is -1"),
    ],
)
def test_bad_options(
    options: dict[str, Any], said: str, volumes: Callable[[int], Path], tmp_path: Path
) -> None:
    given = {"models": ["random:tiny_test"], "out": tmp_path / "out"} | options
    with pytest.raises(UserError, match=said):
        evaluate([volumes(1)], **given)
    assert not (tmp_path / "out").exists()


def test_models_are_told_apart(
    volumes: Callable[[int], Path], tiny_export: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is given twice"):
        evaluate([volumes(1)], models=[str(tiny_export)] * 2, out=tmp_path / "out", device="cpu")


def test_a_folder_in_use_is_left_alone(
    volumes: Callable[[int], Path], tiny_export: Path, tmp_path: Path
) -> None:
    from filelock import FileLock

    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(UserError, match="another evaluate is at work"):
        evaluate([volumes(1)], models=[str(tiny_export)], out=out, device="cpu")
