"""The benchmarks of training, on miniatures; real sizes are `make bench`'s."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a script beside which its own modules lie."""
    sys.path.insert(0, str(BENCHMARKS))
    yield __import__
    sys.path.remove(str(BENCHMARKS))


def run(script: str, out: Path, *options: str) -> dict[str, Any]:
    """Runs a script in a process of its own on one thread and returns its JSON."""
    command = [sys.executable, str(BENCHMARKS / script), "--variant", "tiny_test"]
    done = subprocess.run(
        [*command, *options, "--json", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text())


def test_training_of_both_ways(tmp_path: Path) -> None:
    options = ("--threads", "1", "--side", "96", "--plan", "64:12:1")
    result = run("training.py", tmp_path / "training.json", *options)
    (row,) = result["rows"]
    assert row["object_ratio_cpu"] == pytest.approx(12 * row["image_ratio_cpu"])
    assert row["ours"]["objects_per_s"] == pytest.approx(12 / row["ours"]["wall_s"])
    assert row["paper"]["objects_per_s"] == pytest.approx(1 / row["paper"]["wall_s"])
    assert row["memory"]["ours"]["peak_mb"] > row["memory"]["ours"]["before_mb"] > 0
    assert result["machine"]["threads"] == 1
    assert result["command"].endswith("training.json")


def test_the_paper_trains_one_object_of_a_slice(
    load: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    ways = load("training_ways")
    ways.write_cases(tmp_path / "data", depth=3, side=96)
    work = ways.Work(64, 1, batch=2, variant="tiny_test")
    training = ways.paper_training(work, tmp_path / "data")
    images, masks, boxes = next(training.batches)
    assert images.dtype == torch.float32
    assert images.shape == (2, 3, 64, 64)
    assert masks.shape == (2, 1, 16, 16)
    for mask, box in zip(masks[:, 0], boxes, strict=True):
        rows, columns = (4 * torch.nonzero(mask.any(dim=axis)).flatten() for axis in (1, 0))
        assert rows.numel() > 0
        assert box[0] <= columns[0] <= columns[-1] <= box[2]
        assert box[1] <= rows[0] <= rows[-1] <= box[3]
    core = training.model.core
    before = {name: value.clone() for name, value in core.state_dict().items()}
    losses = [float(training.step()) for _ in range(30)]
    moved = {
        name for name, value in core.state_dict().items() if not torch.equal(before[name], value)
    }
    assert all(name.startswith(("image_encoder.", "sam_mask_decoder.")) for name in moved)
    assert any(name.startswith("image_encoder.") for name in moved)
    assert sum(losses[-5:]) < sum(losses[:5])


def test_fast_and_plain_paths_learn_the_same(tmp_path: Path) -> None:
    figure = tmp_path / "curves.png"
    options = ("--size", "64", "--side", "96", "--steps", "6", "--threads", "1")
    result = run("loss_curves.py", tmp_path / "curves.json", *options, "--figure", str(figure))
    assert len(result["fast"]) == len(result["plain"]) == 6
    assert len(set(result["fast"])) == 6
    assert result["apart_max"] < 1e-4
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_plain_path_is_metas_encoder_without_sharing(
    load: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    curves, ways = load("loss_curves"), load("training_ways")
    ways.write_cases(tmp_path / "data", depth=2, side=96)
    work = ways.Work(64, 3, variant="tiny_test")
    data = ways.our_training(work, tmp_path / "data")[1]
    module = curves.PlainTuner(variant="tiny_test", weights="random", image_size=64)
    encoded: list[int] = []
    trunk = module.model.core.image_encoder.trunk
    trunk.register_forward_hook(lambda trunk, images, out: encoded.append(len(images[0])))
    curves.curve(module, data, 1)
    assert encoded == [3]
    assert "forward" not in vars(trunk.blocks[0])  # nothing of it is replaced


def test_floor_counts_every_part(tmp_path: Path) -> None:
    options = ("--sizes", "64", "--threads", "1", "--repeats", "1")
    rows = run("floor.py", tmp_path / "floor.json", *options)["sizes"]["64"]
    assert [row["part"] for row in rows] == [
        "patch embedding",
        *(f"stage {number}" for number in (1, 2, 3, 4)),
        "neck",
        "decoder",
        "losses",
        "optimiser",
    ]
    assert all(row["gb"] > 0 and row["seconds"] > 0 and row["share"] > 0 for row in rows)
    assert all(row["gflop"] > 0 for row in rows[:7])


def test_arithmetic_and_bytes_are_counted_by_hand_too(load: Callable[[str], ModuleType]) -> None:
    parts = load("step_parts")
    x, weight = torch.randn(8, 16), torch.randn(16, 4)
    with parts.ByteCounter() as moved:
        x @ weight
        x.view(16, 8).t()  # views move nothing
    assert moved.total == 4 * (8 * 16 + 16 * 4 + 8 * 4)
    part = parts.Part("product", parts.both_passes(torch.matmul, x, weight))
    # forward and two products backward
    assert part.measure(1, torch.device("cpu"))["gflop"] == pytest.approx(3 * 2 * 8 * 16 * 4 / 1e9)


def test_gpu_script_runs_where_there_is_none(tmp_path: Path) -> None:
    rows = (
        "paper, float32",
        "ours, bf16",
        "ours, bf16, checkpointing",
        "ours, bf16, 8 workers",
        "ours, bf16, channels first",
        "ours, bf16, Meta's encoder",
        "ours, bf16, 12 objects",
        "ours, bf16, cuDNN attention",
    )
    sizes = ("--size", "64", "--batch", "2", "--side", "64", "--steps", "1", "--warmup", "1")
    out = tmp_path / "gpu.json"
    result = run("gpu.py", out, "--device", "cpu", *sizes, "--only", *rows)
    assert [row["name"] for row in result["rows"]] == list(rows)
    assert "error" in result["rows"][-1]  # no such kernel on a CPU, and the script goes on
    assert all(row["images_per_s"] > 0 for row in result["rows"][:-1])
    assert result["image_ratio"] > 0
    assert result["memory_ratio"] is None  # no GPU, no figure
    assert result["device_busy"] > 0
    assert {row["part"] for row in result["roofline"]} >= {"stage 1", "stage 4", "decoder"}


def test_gpu_figures_of_a_run(load: Callable[[str], ModuleType]) -> None:
    def row(name: str, seconds: float, peak_gb: float, objects: int = 1) -> dict[str, Any]:
        return {
            "name": name,
            "seconds": seconds,
            "images_per_s": 16 / seconds,
            "peak_gb": peak_gb,
            "objects_per_slice": objects,
        }

    rows = [
        row("paper, float32", 1.0, 40.0),
        row("ours, bf16", 0.1, 20.0),
        row("ours, bf16, checkpointing", 0.125, 8.0),
        row("ours, bf16, 8 workers", 0.104, 20.0),
        row("ours, bf16, 12 objects", 0.05, 1.0, objects=12),
        {"name": "ours, bf16, cuDNN attention", "error": "no kernel"},
    ]
    assert load("gpu").conclude({"rows": rows}) == {
        "best": "ours, bf16, checkpointing",  # the fastest of those that meet the memory target
        "image_ratio": pytest.approx(8.0),
        "memory_ratio": pytest.approx(0.2),
        "device_busy": pytest.approx(0.1 / 0.104),
    }


def test_summary_holds_results_against_targets(tmp_path: Path) -> None:
    rows = [
        {"size": 1024, "objects_per_slice": 12, "object_ratio_cpu": 7.5, "image_ratio_cpu": 0.6},
        {"size": 1024, "objects_per_slice": 1, "object_ratio_cpu": 1.0, "image_ratio_cpu": 1.0},
    ]
    training = {"command": "python benchmarks/training.py --threads 1", "rows": rows}
    (tmp_path / "training.json").write_text(json.dumps(training))
    disk = [{"name": "disk", "ratio": 0.2}, {"name": "store at 1024", "ratio": 9.0}]
    (tmp_path / "data_path.json").write_text(json.dumps({"rows": disk}))
    command = [sys.executable, str(BENCHMARKS / "summary.py"), "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    summary = {row["name"]: row for row in json.loads((tmp_path / "summary.json").read_text())}
    assert all(
        row.keys() == {"name", "ratio", "target", "better", "unit", "command"}
        for row in summary.values()
    )
    trained = summary["objects trained per second, 12 labels per slice, 1024, CPU"]
    assert (trained["ratio"], trained["command"]) == (7.5, training["command"])
    assert summary["disk"]["ratio"] == 0.2
    assert summary["metrics, 12 organs"]["ratio"] is None
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert lines["images trained per second, one object, 1024, CPU (times)"].endswith("MISSED")
    assert lines["disk (times)"].endswith("met")
    assert lines["metrics, 12 organs (times)"].endswith("not measured")
