import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from medsam2_ft.data.datamodule import SliceDataModule
from medsam2_ft.errors import UserError

MakeCase = Callable[..., Path]


def module(folder: Path, **changes: Any) -> SliceDataModule:
    options: dict[str, Any] = {"image_size": 64, "batch_size": 2, "num_workers": 0}
    return SliceDataModule(str(folder), **(options | changes))


def test_batches_hold_every_labelled_slice_once(data_dir: Path) -> None:
    data = module(data_dir, batch_size=4, negative_share=0.0)
    data.prepare_data()
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    assert sum(len(batch.masks) for batch in batches) == 18  # nine slices, two labels each
    for batch in batches:
        assert batch.images.shape == (4, 1, 64, 64)
        assert batch.masks.any(dim=(1, 2)).all()
    val = list(data.val_dataloader())
    assert sum(len(batch.masks) for batch in val) == 6
    assert data.test_dataloader() == []


def test_describes_the_cases(data_dir: Path, make_case: MakeCase) -> None:
    make_case(data_dir / "val", "more", value=3, labels=(2, 7))
    data = module(data_dir)
    data.setup("fit")
    assert data.label_names == {1: "organ 1", 2: "organ 2", 7: "organ 7"}
    assert data.intensity_rules == ['{"kind": "window", "lower": -160.0, "upper": 240.0}']
    assert data.modalities == ["CT"]
    assert [path.stem for path in data.case_paths("train")] == ["case0", "case1", "case2"]
    assert [path.stem for path in data.case_paths("val")] == ["held", "more"]
    assert data.case_paths("test") == []


def test_workers_give_the_same_batches(data_dir: Path) -> None:
    both = []
    for workers in (0, 2):
        data = module(data_dir, num_workers=workers, negative_share=0.3)
        data.setup("fit")
        both.append(list(data.train_dataloader()))
    for here, there in zip(*both, strict=True):
        torch.testing.assert_close(here.images, there.images, rtol=0, atol=0)
        torch.testing.assert_close(here.boxes, there.boxes, rtol=0, atol=0)
        assert torch.equal(here.masks, there.masks)


def test_any_mix_of_sizes_and_colours(tmp_path: Path, make_case: MakeCase) -> None:
    make_case(tmp_path, "gray", value=1, hw=(30, 90))
    make_case(tmp_path, "colour", value=2, hw=(120, 80), colour=True)
    make_case(tmp_path, "tiny", value=3, hw=(13, 21))
    data = module(tmp_path, val_share=0.0, batch_size=16)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch.images.shape == (16, 3, 64, 64)
    assert data.val_dataloader() == []


def test_negatives_reach_their_share(tmp_path: Path, make_case: MakeCase) -> None:
    for k in range(4):
        make_case(tmp_path, f"case{k}", value=k, depth=22, labels=(1,))
    data = module(tmp_path, val_share=0.0, negative_share=0.25, batch_size=8)
    data.setup("fit")
    masks = torch.cat([batch.masks for batch in data.train_dataloader()])
    share = 1 - masks.any(dim=(1, 2)).float().mean()
    assert 0.15 < share < 0.35


def test_cases_without_labels_are_skipped_and_named(
    data_dir: Path, make_case: MakeCase, capsys: pytest.CaptureFixture[str]
) -> None:
    make_case(data_dir / "train", "blank", labels=())
    np.savez(data_dir / "train" / "bare.npz", imgs=np.zeros((2, 20, 20), np.uint8))
    data = module(data_dir)
    data.prepare_data()
    data.setup("fit")
    assert len(data.case_paths("train")) == 3
    lines = [line for line in capsys.readouterr().out.splitlines() if "Skipped" in line]
    named = "bare.npz (it has no label map), blank.npz (its label maps are empty)"
    assert lines == [f"Skipped for want of labels: {named}"]


def test_many_skipped_cases_are_counted(
    data_dir: Path, make_case: MakeCase, capsys: pytest.CaptureFixture[str]
) -> None:
    for k in range(13):
        make_case(data_dir / "train", f"blank{k:02}", labels=(), value=20 + k)
    module(data_dir).prepare_data()
    assert "blank09.npz (its label maps are empty) and 3 more" in capsys.readouterr().out


@pytest.mark.parametrize("function", ["prepare_data", "setup"])
def test_no_labels_at_all_is_an_error(tmp_path: Path, make_case: MakeCase, function: str) -> None:
    make_case(tmp_path, "blank", labels=())
    data = module(tmp_path)
    with pytest.raises(UserError, match=r"none of the 1 cases has labels .*blank\.npz"):
        data.prepare_data() if function == "prepare_data" else data.setup("fit")


def test_nothing_to_train_on_is_an_error(tmp_path: Path, make_case: MakeCase) -> None:
    make_case(tmp_path / "train", "blank", labels=())
    make_case(tmp_path / "val", "good")
    with pytest.raises(UserError, match="no case to train on"):
        module(tmp_path).setup("fit")


@pytest.mark.parametrize(("stage", "split"), [("validate", "val"), ("test", "test")])
def test_nothing_to_evaluate_on_is_an_error(
    stage: str, split: str, tmp_path: Path, make_case: MakeCase
) -> None:
    make_case(tmp_path / "train", "good")
    data = module(tmp_path, val_share=0.0)
    with pytest.raises(UserError, match=rf"no case to {stage} on; .* data\.{split}_share"):
        data.setup(stage)
    data.setup("fit")


def test_an_image_in_two_splits_is_refused_even_from_two_data_sets(
    tmp_path: Path, make_case: MakeCase
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    make_case(first / "train", "a", value=1)
    make_case(first / "val", "b", value=2)
    make_case(second / "train", "c", value=3)
    make_case(second / "val", "d", value=4)
    options: dict[str, Any] = {"image_size": 64, "batch_size": 2, "num_workers": 0}
    SliceDataModule([str(first), str(second)], **options).setup("fit")
    make_case(second / "val", "copy", value=1, labels=(5,))  # other labels, the same image
    with pytest.raises(UserError, match=r"copy\.npz \(val\): the same image as .*a\.npz \(train\)"):
        SliceDataModule([str(first), str(second)], **options).setup("fit")


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        module(tmp_path / "nowhere").prepare_data()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("image_size", 500),
        ("image_size", 0),
        ("batch_size", 0),
        ("max_objects", 0),
        ("max_objects", 255),
        ("num_workers", -1),
        ("box_jitter_px", -1.0),
        ("box_jitter_px", float("inf")),
        ("negative_share", 0.95),
        ("negative_share", -0.1),
        ("seed", -1),
    ],
)
def test_wrong_option_is_named_with_its_value(option: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"data\.{option} is {re.escape(str(value))}; choose"):
        module(Path("data"), **{option: value})


def test_wrong_share_is_an_error() -> None:
    with pytest.raises(UserError, match="val_share"):
        module(Path("data"), val_share=1.5)


class OneOfTwo(Trainer):
    """A trainer that believes to be one of two processes."""

    rank = 0

    @property
    def global_rank(self) -> int:
        return self.rank

    @property
    def world_size(self) -> int:
        return 2


def ranked(data_dir: Path, rank: int, *, sampler: bool = False) -> SliceDataModule:
    """The data module of one of two processes, half the batch each."""
    data = module(data_dir, batch_size=2, negative_share=0.3)
    data.trainer = OneOfTwo(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        use_distributed_sampler=sampler,
    )
    data.trainer.rank = rank
    data.setup("fit")
    return data


def test_two_ranks_share_the_batches_of_one(data_dir: Path) -> None:
    whole = module(data_dir, batch_size=4, negative_share=0.3)
    whole.setup("fit")
    ranks = [ranked(data_dir, rank) for rank in (0, 1)]
    loaders = [data.train_dataloader() for data in ranks]
    assert len({len(loader) for loader in loaders}) == 1
    for batch, first, second in zip(whole.train_dataloader(), *loaders, strict=True):
        torch.testing.assert_close(batch.images, torch.cat([first.images, second.images]))
        torch.testing.assert_close(batch.boxes, torch.cat([first.boxes, second.boxes]))
    held = [len(b.masks) for data in ranks for b in data.val_dataloader()]
    assert sum(held) == 6


def test_a_trainer_that_divides_the_slices_again_is_refused(data_dir: Path) -> None:
    data = ranked(data_dir, 0, sampler=True)
    for loader in (data.train_dataloader, data.val_dataloader):
        with pytest.raises(UserError, match="use_distributed_sampler"):
            loader()


def test_validating_a_checkpoint_moves_nothing(data_dir: Path) -> None:
    data = module(data_dir)
    data.setup("validate")
    data.load_state_dict({"epoch": 3, "samples": 2})
    assert data.state_dict()["epoch"] == 0


def test_real_ct_lesions_train_with_the_store_elsewhere(tmp_path: Path, test_data: Path) -> None:
    folder = test_data / "CT" / "medsam2_recist_npz"
    data = module(folder, store_dir=str(tmp_path), val_share=0.3, image_size=256, batch_size=4)
    data.prepare_data()
    data.setup("fit")
    assert len(data.case_paths("train")) == 2
    assert len(data.case_paths("val")) == 1
    assert data.modalities == ["CT"]
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (4, 1, 256, 256)
    assert batch.images.float().std() > 10
    assert batch.masks.any()
    assert not (folder / ".store").exists()
