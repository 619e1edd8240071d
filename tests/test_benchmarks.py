"""The benchmarks of inference and of fine-tuning, on miniatures; real sizes are `make bench`'s."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from medsam2_ft.sam2_adapter import Sam2, build_model

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Callable[[str], ModuleType]:
    """Imports a script beside which its own modules lie."""
    sys.path.insert(0, str(BENCHMARKS))
    yield __import__
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def tiny() -> Sam2:
    torch.manual_seed(1)
    model = build_model("tiny_test", image_size=64, weights="random")
    with torch.no_grad():
        model.core.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    return model


def test_both_ways_of_inference_give_the_same_masks(
    load: Callable[[str], ModuleType], tiny: Sam2
) -> None:
    inference = load("inference")
    row = inference.compare(tiny, inference.volume(5, 64), 3, repeats=1)
    assert row["iou_min"] >= 0.999
    assert 0.001 < row["mask_share"] < 0.999
    # whatever is called twelve times as often takes longer
    assert row["plain"]["encoder_cpu_s"] > 4 * row["ours"]["encoder_cpu_s"] > 0
    assert row["ours"]["encoder_cpu_s"] + row["ours"]["decoder_cpu_s"] < row["ours"]["cpu_s"]


def test_each_slice_is_encoded_once_or_once_for_every_label(
    load: Callable[[str], ModuleType], tiny: Sam2
) -> None:
    inference = load("inference")
    calls: list[int] = []
    hook = tiny.core.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    data = inference.volume(3, 64)
    masks = inference.run_ours(tiny, *data)
    assert len(calls) == 3
    assert len(inference.run_plain(tiny, *data)) == len(masks) == 3 * inference.LABELS
    assert len(calls) == 3 + 3 * inference.LABELS
    hook.remove()


def test_overlap_and_dsc_of_packed_masks(load: Callable[[str], ModuleType]) -> None:
    inference = load("inference")
    labels = np.zeros((1, 4, 4), np.uint8)
    labels[0, :2] = 1  # 8 pixels
    found = np.zeros((4, 4), bool)
    found[1:3] = True  # 8 pixels, 4 of them the same
    one = {(1, 0): np.packbits(found, axis=-1)}
    other = {(1, 0): np.packbits(labels[0] == 1, axis=-1)}
    assert inference.overlap(one, other) == pytest.approx([4 / 12])
    assert inference.mean_dsc(one, labels) == pytest.approx(0.5)


def test_memory_is_that_of_a_fresh_process() -> None:
    command = [sys.executable, str(BENCHMARKS / "inference_memory.py"), "13", "64", "apart"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["arrays_mb"] == pytest.approx(2 * 13 * 64 * 64 / 1e6)
    assert 0 <= row["growth_mb"] < row["beside_arrays_mb"]


def test_real_cases_are_split_by_patient(
    load: Callable[[str], ModuleType], test_data: Path, tmp_path: Path
) -> None:
    cases = load("transfer_cases")
    files = cases.prepare(test_data, tmp_path / "cases")
    folders = cases.make_folds(files, tmp_path)
    tested: list[str] = []
    for folder in folders:
        splits = [{f.stem for f in (folder / s).glob("*.npz")} for s in ("train", "test")]
        patients = [{cases.patient_of(name) for name in names} for names in splits]
        assert not patients[0] & patients[1]
        assert splits[0] | splits[1] == {file.stem for file in files}
        tested += splits[1]
    assert sorted(tested) == sorted(file.stem for file in files)
    assert len({cases.patient_of(name) for name in tested}) == 7


def test_every_trial_is_a_recipe_of_the_project(load: Callable[[str], ModuleType]) -> None:
    from medsam2_ft.data.datamodule import SliceDataModule
    from medsam2_ft.module import FineTuner

    transfer = load("transfer")
    known = {
        "model": inspect.signature(FineTuner).parameters,
        "data": inspect.signature(SliceDataModule).parameters,
    }
    for config, changes in transfer.TRIALS.values():
        parts = transfer.recipe(config)
        names = [*changes, *(f"{part}.{name}" for part in known for name in parts[part])]
        assert all(name.split(".")[1] in known[name.split(".")[0]] for name in names)
    assert transfer.recipe("paper")["model"]["object_score_weight"] == 0
    keys = {trial: changes for trial, (_, changes) in transfer.TRIALS.items()}
    assert len({json.dumps(changes) for changes in keys.values()}) == len(keys) - 1  # ours, paper


def test_a_run_trains_scores_and_is_not_repeated(
    load: Callable[[str], ModuleType], tiny: Sam2, make_case: Callable[..., Path], tmp_path: Path
) -> None:
    from medsam2_ft.evaluate import score_slices, score_volume
    from medsam2_ft.io.npz import read_case

    transfer, table = load("transfer"), load("transfer_table")
    folds = []
    for number in range(2):
        for split, patient in zip(("train", "test"), ("STS_008", "STS_019"), strict=True):
            file = make_case(f"CT_{patient}", shape_zyx=(5, 48, 48), seed=number)
            target = tmp_path / f"fold{number}" / split
            target.mkdir(parents=True)
            file.rename(target / file.name)
        folds.append(tmp_path / f"fold{number}")
    start = tmp_path / "start.pt"
    torch.save({"model": tiny.core.state_dict()}, start)
    start.with_suffix(".json").write_text('{"variant": "tiny_test", "image_size": 64}')
    args = transfer.argparse.Namespace(trials=["ours", "paper"], seeds=[0], passes=6)
    jobs = transfer.make_jobs(args, start, folds)
    assert len({job.key() for job in jobs}) == len(jobs) == 6

    records = [transfer.run_job(job) for job in jobs]
    assert [record["encoded"] for record in records] == [0, 0, 6, 6, 6, 6]
    case = read_case(folds[0] / "test" / "CT_STS_019.npz")
    expected = [s.dsc for s in score_slices(tiny, case, min_area_px=transfer.MIN_AREA_PX)]
    assert [row[3] for row in records[0]["slices"]] == expected
    assert [row[2] for row in records[0]["objects"]] == [s.dsc for s in score_volume(tiny, case)]
    assert records[2]["slices"] != records[0]["slices"] != records[4]["slices"]

    journal = tmp_path / "runs.jsonl"
    journal.write_text("".join(json.dumps(record) + "\n" for record in records))
    again = transfer.run_all(jobs, journal, workers=1)
    assert again == records
    summary = table.summarize(again)
    mean = np.mean([row[3] for record in records[2:4] for row in record["slices"]])
    assert summary["ours"]["2D DSC"]["mean"][0] == pytest.approx(mean)
    assert "minus_ours" in summary["paper"]["3D DSC"]


def test_intervals_of_paired_differences(load: Callable[[str], ModuleType]) -> None:
    table = load("transfer_table")
    values = {"a": np.full(3, 0.2), "b": np.full(9, 0.4)}
    mean, low, high = table.bootstrap(values)
    assert mean == pytest.approx(0.3)  # each patient counts the same
    assert (low, high) == pytest.approx((0.2, 0.4))  # half the resamples hold one patient twice

    def record(trial: str, shift: float) -> dict[str, object]:
        slices = [
            [f"CT_STS_0{p:02}", "CT", z, 0.1 * p + shift, 0.5] for p in (1, 2) for z in (0, 1)
        ]
        return {"trial": trial, "encoded": 0, "slices": slices, "objects": []}

    summary = table.summarize([record("ours", 0.0), record("other", 0.05)])
    assert summary["other"]["2D DSC"]["minus_ours"] == pytest.approx((0.05, 0.05, 0.05))
    assert summary["filled box"]["2D DSC"]["mean"] == pytest.approx((0.5, 0.5, 0.5))


def test_rates_disk_and_start_up_of_the_data_path(
    load: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    path, scale = load("data_path"), load("data_scale")
    (tmp_path / "data").mkdir()
    path.generate(tmp_path / "data", volumes=1, depth=4, side=64)
    cases = path.find_cases(tmp_path / "data")
    result = path.measure(cases, tmp_path, [64], seconds=0.1)
    assert result["slices"] == 4
    assert result["disk_mib"]["npy"] == pytest.approx(4 * 2 * (64 * 64 + 128) / 2**20)
    small = scale.generate_cases(tmp_path / "small", 2, 3, 64)
    scale.build_store(small)
    start_up = scale.first_batch(small, 64, 2, 0)
    assert len(start_up["first_batch_s"]) == scale.START_UPS
    memory = {"2": {"resident_mb": 50, "own_mb": 5}, "10": {"resident_mb": 60, "own_mb": 4}}
    rows = path.rows(result | {"volumes": 2, "start_up": start_up, "worker_memory": memory})
    by_name = {row["name"]: row for row in rows}
    disk = result["disk_mib"]
    assert by_name["disk"]["ratio"] == disk["store"] / disk["npy"] < 1
    medians = {k: np.median(v) for k, v in result["samples_per_s"]["64"].items()}
    rate = by_name["store_augmented at 64"]
    assert rate["ratio"] == pytest.approx(medians["store_augmented"] / medians["npy"])
    assert by_name["worker memory, resident, 10 cases against 2"]["ratio"] == 1.2


def test_memory_of_a_worker_is_that_of_the_loaders_process(
    load: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    scale = load("data_scale")
    small = scale.generate_cases(tmp_path / "small", 2, 3, 64)
    scale.build_store(small)
    memory = scale.worker_memory(small, 64, 2)
    assert 0 < memory["own_mb"] < memory["resident_mb"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_counted_without_data_is_that_of_real_tensors(
    load: Callable[[str], ModuleType], precision: str, checkpointing: bool
) -> None:
    memory = load("memory")
    model = memory.make_model("tiny_test", 64, checkpointing)
    weights = {p.data_ptr() for p in model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encoding = memory.encode(model, 2, precision)
        memory.loss_of(model, encoding, 2, precision)
    kept = {at: t.untyped_storage().nbytes() for at, t in held.items() if at not in weights}
    counted = memory.count(model, 2, precision)["kept"]
    # without data, some storages that share their bytes are told apart: 9 % more were seen
    assert 0.99 * sum(kept.values()) <= counted <= 1.12 * sum(kept.values())


def test_the_table_of_computed_memory_is_the_one_in_the_docs(
    load: Callable[[str], ModuleType],
) -> None:
    result = json.loads((BENCHMARKS / "results" / "memory.json").read_text())
    printed = load("memory").markdown(result["computed"])
    assert printed in (BENCHMARKS.parent / "docs" / "presets.md").read_text()
