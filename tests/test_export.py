"""Exports load in Meta's own package and segment as the module did."""

import json
from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch
from sam2.build_sam import build_sam2, build_sam2_video_predictor
from sam2.sam2_image_predictor import SAM2ImagePredictor

from medsam2_ft.cli import main
from medsam2_ft.errors import UserError
from medsam2_ft.evaluate import predict_slice
from medsam2_ft.export import ExportInfo, export, loading_lines, write_export
from medsam2_ft.module import FineTuner
from medsam2_ft.sam2_adapter import build_model
from medsam2_ft.weights import VARIANTS, load_state

VARIANT = "sam2.1_hiera_tiny"
SIZE = 256


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of the real SAM2.1-Tiny at 256 from random weights."""
    folder = tmp_path_factory.mktemp("export")
    for split, seed in (("train", 0), ("val", 100)):
        (folder / split).mkdir()
        synthetic.write_npz(folder / split / "CT_a.npz", (4, 48, 56), seed=seed, modality="CT")
    values = {
        "run": folder / "run",
        "data.data_dir": folder,
        "data.image_size": SIZE,
        "data.batch_size": 1,
        "data.num_workers": 0,
        "model.variant": VARIANT,
        "model.weights": "random",
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": False,
    }

    def keep_start(module: FineTuner) -> None:
        torch.save(module.model.core.state_dict(), folder / "start.pt")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        patch.setattr(FineTuner, "on_fit_start", keep_start)
        main(["fit", *(f"--{key}={value}" for key, value in values.items())])
    return folder / "run"


def test_meta_loads_it_strictly(run: Path) -> None:
    config = VARIANTS[VARIANT].config
    overrides = [f"++model.image_size={SIZE}"]
    # build_sam2 raises on any missing or unexpected key
    for build in (build_sam2, build_sam2_video_predictor):
        file = str(run / "exports" / "last.pt")
        model = build(config, file, device="cpu", hydra_overrides_extra=overrides)
        for key, tensor in load_state(run / "exports" / "last.pt").items():
            assert torch.equal(model.state_dict()[key], tensor), key
    content = torch.load(run / "exports" / "last.pt", weights_only=True)
    assert list(content) == ["model"]


def test_frozen_tensors_are_those_of_the_start_and_trained_ones_have_moved(run: Path) -> None:
    start = torch.load(run.parent / "start.pt", weights_only=True)
    exported = load_state(run / "exports" / "last.pt")
    assert start.keys() == exported.keys()
    moved = {key for key in start if not torch.equal(start[key], exported[key])}
    trained = {key for key in start if key.startswith(("image_encoder.", "sam_mask_decoder."))}
    assert moved == trained


def test_unchanged_at_1024(run: Path) -> None:
    """The same file serves every input size: no tensor depends on it."""
    model = build_sam2(VARIANTS[VARIANT].config, str(run / "exports" / "last.pt"), device="cpu")
    assert model.image_size == 1024


def test_the_sidecars_lines_load_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar = json.loads((run / "exports" / "last.json").read_text())
    monkeypatch.chdir(run / "exports")
    names: dict[str, object] = {}
    exec("\n".join(sidecar["load_with"]), names)  # noqa: S102  what users paste
    predictor = names["predictor"]
    assert isinstance(predictor, SAM2ImagePredictor)
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    predictor.set_image(image)
    masks, _, _ = predictor.predict(box=np.array([5, 5, 30, 30]), multimask_output=False)
    assert masks.shape == (1, 40, 50)


def test_same_masks_as_the_module(run: Path) -> None:
    """The trained module's own masks, and Meta's predictor's on the exported file."""
    module = FineTuner.load_from_checkpoint(
        run / "checkpoints" / "last.ckpt", map_location="cpu", weights="random"
    ).eval()
    image, _ = synthetic.make_volume((4, 48, 56), (1, 2, 3), seed=100)
    boxes = np.array([[4, 4, 30, 40], [20, 10, 50, 44]], np.float32)
    ours = predict_slice(module.model, image[2], boxes)
    exported = build_model(VARIANT, image_size=SIZE, weights=str(run / "exports" / "last.pt"))
    assert torch.equal(
        torch.as_tensor(ours), torch.as_tensor(predict_slice(exported, image[2], boxes))
    )
    core = build_sam2(
        VARIANTS[VARIANT].config,
        str(run / "exports" / "last.pt"),
        device="cpu",
        hydra_overrides_extra=[f"++model.image_size={SIZE}"],
    )
    predictor = SAM2ImagePredictor(core)
    predictor._bb_feat_sizes = [(SIZE // s, SIZE // s) for s in (4, 8, 16)]
    predictor.set_image(np.repeat(image[2][..., None], 3, axis=2))
    for box, mask in zip(boxes, np.asarray(ours), strict=True):
        theirs, _, _ = predictor.predict(box=box, multimask_output=False)
        assert np.array_equal(theirs[0] > 0, mask)


def test_checkpoint_exports_to_the_same_file(run: Path, tmp_path: Path) -> None:
    target = export(run / "checkpoints" / "last.ckpt", out=tmp_path / "again.pt")
    again, at_run = load_state(target), load_state(run / "exports" / "last.pt")
    assert again.keys() == at_run.keys()
    assert all(torch.equal(again[key], at_run[key]) for key in again)
    sidecar = json.loads((tmp_path / "again.json").read_text())
    assert sidecar["variant"] == VARIANT
    assert sidecar["modalities"] == ["CT"]
    assert sidecar["step"] > 0


def test_official_files_need_no_export(run: Path) -> None:
    with pytest.raises(UserError, match=r"last.pt: not a training checkpoint"):
        export(run / "exports" / "last.pt")


def test_target_must_be_pt(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x.bin: exported weights end in .pt"):
        export(run / "checkpoints" / "last.ckpt", out=tmp_path / "x.bin")
    assert list(tmp_path.iterdir()) == []


def test_half_precision_is_stored_as_float32(tmp_path: Path) -> None:
    state = {"a": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)}
    write_export(state, tmp_path / "x.pt", ExportInfo(variant="tiny_test", image_size=64))
    loaded = load_state(tmp_path / "x.pt")
    assert loaded["a"].dtype == torch.float32
    assert loaded["n"].dtype == torch.int64


def test_no_override_at_1024() -> None:
    lines = loading_lines("c.yaml", "w.pt", 1024)
    assert not any("image_size" in line or "_bb_feat_sizes" in line for line in lines)
