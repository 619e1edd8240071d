"""Weights for tests."""

from pathlib import Path

import torch

from medsam2_ft.export import ExportInfo, write_export
from medsam2_ft.sam2_adapter import build_model


def write_model(path: Path, seed: int = 0) -> Path:
    """An export of a random tiny model that always sees an object."""
    torch.manual_seed(seed)
    model = build_model("tiny_test", image_size=64, weights="random")
    with torch.no_grad():  # "no object" makes all masks empty, and any comparison passes
        model.core.sam_mask_decoder.pred_obj_score_head.layers[-1].bias += 10.0
    path.parent.mkdir(parents=True, exist_ok=True)
    info = ExportInfo(variant="tiny_test", image_size=64, strategy="box")
    write_export(model.core.state_dict(), path, info)
    return path
