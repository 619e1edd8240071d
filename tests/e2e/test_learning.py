"""The tiny SAM2 learns to segment generated organs that a box does not give away."""

from pathlib import Path

import numpy as np
import synthetic
from training_process import train

from medsam2_ft.evaluate import score_slices
from medsam2_ft.io.npz import read_case
from medsam2_ft.sam2_adapter import build_model

SIZE = 128


def test_it_learns(tmp_path: Path) -> None:
    for split, count, seed in (("train", 12, 0), ("val", 4, 1000)):
        for i in range(count):
            file = tmp_path / "data" / split / f"{split}_{i}.npz"
            file.parent.mkdir(parents=True, exist_ok=True)
            synthetic.write_npz(file, (8, 64, 64), (1, 2), form="crescent", seed=seed + i)
    values = {
        "run": tmp_path / "run",
        "data.data_dir": tmp_path / "data",
        "data.image_size": SIZE,
        "data.batch_size": 4,
        "data.num_workers": 0,
        "model.variant": "tiny_test",
        "model.weights": "random",
        "model.lr_encoder": 1e-3,
        "model.lr_decoder": 1e-3,
        "model.beta2": 0.95,
        # with 12 it has left the plateau at the filled box on some processors, on others not yet
        "trainer.max_epochs": 20,
        "trainer.check_val_every_n_epoch": 20,
        "trainer.gradient_clip_val": 1.0,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": False,
        "propagation.every_n_epochs": 20,
        "last.every_n_epochs": 20,
    }
    log = tmp_path / "log"
    assert train(["fit", *(f"--{k}={v}" for k, v in values.items())], log=log) == 0, log.read_text()
    model = build_model(
        "tiny_test", image_size=SIZE, weights=str(tmp_path / "run" / "exports" / "last.pt")
    )
    scores = [
        score
        for path in sorted((tmp_path / "data" / "val").glob("*.npz"))
        for score in score_slices(model, read_case(path), min_area_px=20)
    ]
    dsc, box = (float(np.mean([getattr(s, name) for s in scores])) for name in ("dsc", "dsc_box"))
    print(f"{len(scores)} slices: DSC {dsc:.3f}, filled box {box:.3f}")
    assert len(scores) > 30
    assert box < 0.7, "the organs are too easy"
    assert dsc >= 0.75
    assert dsc >= box + 0.15
