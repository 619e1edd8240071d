"""docs/loop.md, run: annotate, fine-tune on what was accepted, segment with what came of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from live import Client, running
from numpy.typing import NDArray
from test_serve_stack import export

from medsam2_ft.cli import main
from medsam2_ft.io.npz import read_case
from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.serve import wire
from medsam2_ft.serve.engine import ModelEngine
from medsam2_ft.serve.registry import Registry
from medsam2_ft.serve.settings import Settings
from medsam2_ft.types import IntensityRule, Volume

SHAPE = (5, 48, 56)
BOX = [12, 10, 40, 36]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.argv", ["train.py"])
    return tmp_path


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    export(folder / "runs", "start", 3)
    registry = Registry(watch=[str(folder / "runs" / "*" / "exports")])
    settings = Settings(work_dir=folder / "work", accept_dir=folder / "accepted")
    with running(ModelEngine(registry, device="cpu"), settings) as number:
        yield number


def scan(seed: int) -> NDArray[np.int16]:
    image = np.random.default_rng(seed).integers(0, 60, SHAPE).astype(np.int16)
    image[:, 10:37, 12:41] += 120
    return image


def annotate(port: int, seed: int) -> str:
    """One user: box, propagation, the rest by hand, accepted."""
    user = Client(port)
    user.upload(scan(seed), window=[0, 255], modality="CT")
    user.prompt(index=2, box=BOX)
    job = user.call("POST", f"{user.session}/propagate", {}).json
    assert user.follow(job["job_id"], {1: np.zeros(SHAPE, bool)})["state"] == "done"
    whole = np.zeros(SHAPE, bool)
    whole[:, 10:37, 12:41] = True
    drawn = wire.region_to_json(1, whole, [0, 0, 0])
    user.finish(user.call("POST", f"{user.session}/edits", {"regions": [drawn]}))
    case = user.call("POST", f"{user.session}/accept", {"names": {"1": "liver"}})
    assert case.status == 201, case.body
    user.call("DELETE", user.session)
    return str(case.json["case"])


def models(port: int) -> list[str]:
    return [model["id"] for model in Client(port).call("GET", "/capabilities").json["models"]]


def fit(data: Path, run: Path, weights: Path) -> None:
    main(
        [
            *("fit", f"--run={run}", f"--data.data_dir={data}", "--model.variant=tiny_test"),
            *(f"--model.weights={weights}", "--data.image_size=64", "--data.batch_size=2"),
            *("--data.num_workers=0", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"),
            *("--trainer.accelerator=cpu", "--trainer.precision=32-true", "--wandb.mode=off"),
            *("--trainer.enable_progress_bar=false", "--trainer.devices=1"),
        ]
    )


def test_annotate_fine_tune_and_segment(folder: Path, port: int) -> None:
    names = [annotate(port, seed) for seed in range(6)]
    case = read_case(folder / "accepted" / f"{names[0]}.npz")
    assert case.label_maps[0].sum() == 5 * 27 * 29
    assert case.label_names == {1: "liver"}
    assert np.array_equal(case.image, scan(0))  # the window 0-255 leaves the values as they are
    assert models(port) == ["start/best"]
    weights = folder / "runs" / "start" / "exports" / "best.pt"
    fit(folder / "accepted", folder / "runs" / "second", weights)
    assert models(port) == ["second/best", "second/last", "start/best"]

    user = Client(port)
    described = user.upload(scan(9), model="second/last", modality="CT")
    assert described["intensity"] == {"kind": "window", "lower": 0, "upper": 255}
    user.prompt(index=2, box=BOX)
    job = user.call("POST", f"{user.session}/propagate", {"range": [1, 4]}).json
    assert user.follow(job["job_id"], {1: np.zeros(SHAPE, bool)})["state"] == "done"
    bits = user.call("GET", f"{user.session}/masks?format=bits").json
    served = np.zeros(SHAPE, bool)
    wire.apply_region(served, bits["regions"][0])

    export_of = folder / "runs" / "second" / "exports" / "last.pt"
    alone = Segmenter.from_checkpoint(export_of, device="cpu")
    prompt = ObjectPrompt.from_box(1, 2, np.array(BOX, np.float32), (1, 4))
    volume = Volume(scan(9), modality="CT")
    expected = alone.segment(volume, [prompt]).maps[0] == 1
    assert expected.any()
    assert np.array_equal(served, expected)
    before = Segmenter.from_checkpoint(weights, device="cpu")
    rule = IntensityRule("window", 0.0, 255.0)
    assert not np.array_equal(before.segment(volume, [prompt], intensity=rule).maps[0] == 1, served)
