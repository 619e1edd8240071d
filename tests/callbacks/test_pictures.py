from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from tiny_run import TinyData, TinyModule, slice_batch, trainer_for

from medsam2_ft.callbacks import pictures
from medsam2_ft.callbacks.pictures import TrainingPictures
from medsam2_ft.errors import UserError
from medsam2_ft.evaluate import predict_slice
from medsam2_ft.overlays import RED, WHITE, Panel, color_of, render_grid


@pytest.fixture
def grids(monkeypatch: pytest.MonkeyPatch) -> list[list[Panel]]:
    """The panels of every picture that is drawn, in order."""
    drawn: list[list[Panel]] = []

    def spy(panels: list[Panel], columns: int) -> Any:
        drawn.append(list(panels))
        return render_grid(panels, columns, side_px=64)

    monkeypatch.setattr(pictures, "render_grid", spy)
    return drawn


def test_the_training_batch_is_drawn_as_the_model_sees_it(
    tmp_path: Path, grids: list[list[Panel]]
) -> None:
    batch = slice_batch(5, slices=3, channels=3, negative=True)
    data = TinyData(train=[batch, slice_batch(6)])
    trainer = trainer_for(tmp_path, [TrainingPictures(val_slices=0, train_slices=2)], max_epochs=2)
    trainer.fit(TinyModule(), datamodule=data)
    (panels,) = grids
    assert [panel.caption for panel in panels] == [
        "slice 0: 0 objects, 1 negative",
        "slice 1: 1 object",
    ]
    for i, panel in enumerate(panels):
        assert (panel.image == batch.images[i].permute(1, 2, 0).numpy()).all()
        (mask,), (box,) = panel.masks, panel.boxes
        assert (mask.mask == batch.masks[i].numpy()).all()
        assert box.box_xyxy.tolist() == batch.boxes[i].tolist()
    assert [panel.boxes[0].color for panel in panels] == [RED, color_of(0)]
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["train_batch.png"]


def test_the_same_validation_slices_are_drawn_after_each_validation(
    tmp_path: Path, grids: list[list[Panel]]
) -> None:
    val = [slice_batch(seed, negative=seed == 3) for seed in (1, 2, 3, 4, 5)]
    module = TinyModule(lr=0.0)
    callback = TrainingPictures(train_slices=0, val_slices=3)
    trainer_for(tmp_path, [callback], max_epochs=2).fit(module, datamodule=TinyData(val=val))
    first, second = grids
    assert [p.caption for p in first] == [p.caption for p in second]
    assert [p.caption for p in first[::2]] == [
        "slice 0 of batch 0: truth and box",
        "slice 1 of batch 2: truth and box",  # slice 0 shows no object
        "slice 0 of batch 4: truth and box",
    ]
    for (batch_idx, row), left, right in zip(
        ((0, 0), (2, 1), (4, 0)), first[::2], first[1::2], strict=True
    ):
        batch = val[batch_idx]
        image, truth = batch.images[row, 0].numpy(), batch.masks[row].numpy()
        box = batch.boxes[row : row + 1].numpy()
        (pred,) = predict_slice(module.model, image, box)
        assert (left.image == image).all()
        assert (left.masks[0].mask == truth).all()
        assert (left.boxes[0].box_xyxy == box[0]).all()
        fill, outline = right.masks
        assert (fill.mask == pred).all()
        assert fill.color == color_of(0)
        assert (outline.mask == truth).all()
        assert outline.color == WHITE
        coarse = pred.reshape(16, 4, 16, 4).mean(axis=(1, 3)) >= 0.5
        dsc = 2 * (coarse & truth).sum() / (coarse.sum() + truth.sum())
        assert right.caption == f"prediction, DSC {dsc:.2f}"
    names = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    assert names == ["val_epoch_000.png", "val_epoch_001.png"]
    with Image.open(tmp_path / "pictures" / names[0]) as picture:
        assert picture.format == "PNG"


def test_more_slices_than_batches_take_several_of_one_batch(
    tmp_path: Path, grids: list[list[Panel]]
) -> None:
    data = TinyData(val=[slice_batch(1, slices=5)])
    trainer_for(tmp_path, [TrainingPictures(0, 3)]).fit(TinyModule(), datamodule=data)
    captions = [p.caption for p in grids[0][::2]]
    assert captions == [f"slice {i} of batch 0: truth and box" for i in (0, 2, 4)]


def test_pictures_can_be_rare_or_off(tmp_path: Path, grids: list[list[Panel]]) -> None:
    rare = TrainingPictures(train_slices=0, every_n_epochs=2)
    trainer_for(tmp_path, [rare], max_epochs=3).fit(TinyModule(), datamodule=TinyData())
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["val_epoch_001.png"]
    grids.clear()
    off = [TrainingPictures(0, 0)]
    trainer_for(tmp_path / "off", off).fit(TinyModule(), datamodule=TinyData())
    dry = [TrainingPictures()]
    trainer_for(tmp_path / "dry", dry, fast_dev_run=True).fit(TinyModule(), datamodule=TinyData())
    assert grids == []


def test_batches_without_objects_draw_nothing(tmp_path: Path) -> None:
    empty = slice_batch(1, slices=1, negative=True)
    data = TinyData(val=[empty])
    trainer_for(tmp_path, [TrainingPictures(0, 2)]).fit(TinyModule(), datamodule=data)
    assert not (tmp_path / "pictures").exists()


def test_wandb_gets_the_pictures(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="test")
    trainer_for(tmp_path, [TrainingPictures()], logger=logger).fit(
        TinyModule(), datamodule=TinyData()
    )
    logger.experiment.finish()
    media = tmp_path / "wandb"
    for key, file in (("train_batch", "train_batch"), ("val_slices", "val_epoch_000")):
        (sent,) = media.glob(f"offline-run-*/files/media/images/pictures/{key}_*.png")
        own = Image.open(tmp_path / "pictures" / f"{file}.png")
        assert (np.asarray(Image.open(sent)) == np.asarray(own)).all()


def test_tensorboard_gets_the_pictures(tmp_path: Path) -> None:
    class Recorder(TensorBoardLogger):
        """The writer is an optional package; its call is what matters here."""

        def __init__(self) -> None:
            self.images: list[tuple[Any, ...]] = []

        @property
        def experiment(self) -> Any:
            return SimpleNamespace(add_image=self._add)

        def _add(self, name: str, rgb: Any, step: int, dataformats: str) -> None:
            self.images.append((name, rgb.shape, step, dataformats))

    logger = Recorder()
    trainer = trainer_for(tmp_path, [])
    trainer.loggers = [logger]
    pictures._publish(trainer, "a", "b", np.zeros((4, 6, 3), np.uint8))
    assert logger.images == [("pictures/b", (4, 6, 3), 0, "HWC")]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"train_slices": -1}, "-1 and 4"), ({"every_n_epochs": 0}, "every_n_epochs=0")],
)
def test_bad_options_are_named(options: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        TrainingPictures(**options)
