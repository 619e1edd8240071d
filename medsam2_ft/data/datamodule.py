"""The LightningDataModule: from folders of npz cases to loaders, resumable in mid-epoch."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from medsam2_ft.data.augment import AugmentConfig
from medsam2_ft.data.cases import CaseDataset, NamedCase
from medsam2_ft.data.dataset import SliceDataset, TrainingVariation
from medsam2_ft.data.draws import plan_draws
from medsam2_ft.data.index import MODALITY_NAMES
from medsam2_ft.data.library import CaseLibrary
from medsam2_ft.data.loaders import check_trainer, slice_loader
from medsam2_ft.data.options import check_numbers, check_weights
from medsam2_ft.data.progress import TrainingProgress
from medsam2_ft.data.sampler import FixedBatches, TrainBatches
from medsam2_ft.data.sets import named_folders
from medsam2_ft.data.splits import Split
from medsam2_ft.prepare.splits import check_shares
from medsam2_ft.ranks import stop_together
from medsam2_ft.stop_signals import Stopped
from medsam2_ft.types import Case

STAGES: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": (),
}


class SliceDataModule(LightningDataModule):
    """Slices of npz cases with box prompts.

    Training is resumed exactly: the checkpoint holds how many samples of which epoch are done, and
    a sample depends on nothing but seed, epoch and slice. A run that goes on with another batch
    size or another number of ranks sees the rest of the epoch once, too.

    Distributed training needs ``Trainer(use_distributed_sampler=False)``.

    Args:
        data_dir: Folder with ``train``, ``val`` and ``test`` subfolders, or with cases and a
            ``splits.json``, or with cases that are split here; or a list of such folders, each a
            data set under the folder's name.
        image_size: Side of the model's input in pixels, a multiple of 64.
        batch_size: Slices per batch and process.
        max_objects: Most labels of a slice that are prompted at once.
        num_workers: Processes that load data, for each process that trains.
        box_jitter_px: Largest distance by which each side of a training box moves outward, in
            pixels at input size 1024; scaled with ``image_size``.
        box_jitter_inward: Lets sides move inward, too.
        negative_share: Share of boxes without an object among the training prompts.
        augment: Whether training slices are augmented.
        augmentation: What is varied and how much; the defaults of ``AugmentConfig`` if not given.
        val_share: Share of cases drawn for validation where the folder does not say.
        test_share: Share of cases drawn for testing where the folder does not say.
        seed: Decides the drawn split, the order of slices and everything that varies.
        store_dir: Where the slice store goes; ``<data_dir>/.store`` or the user's cache by default.
        dataset_weights: Weight by name of the data set, 1 for those that are not named. Slices are
            drawn in proportion to the weight of their data set times that of their modality; an
            epoch has as many draws as there are labelled slices of a weight above 0.
        modality_weights: Weight by modality (``unknown`` for cases that state none), 1 for those
            that are not named.
        regions: Whether nested targets (``regions`` of a case, such as a whole tumour) are objects
            of their own beside the labels that make them up.
    """

    def __init__(
        self,
        data_dir: list[str] | str,
        image_size: int = 1024,
        batch_size: int = 8,
        max_objects: int = 8,
        num_workers: int = 4,
        box_jitter_px: float = 20.0,
        box_jitter_inward: bool = False,
        negative_share: float = 0.1,
        augment: bool = True,
        augmentation: AugmentConfig | None = None,
        val_share: float = 0.1,
        test_share: float = 0.0,
        seed: int = 0,
        store_dir: str | None = None,
        dataset_weights: dict[str, float] | None = None,
        modality_weights: dict[str, float] | None = None,
        regions: bool = False,
    ) -> None:
        super().__init__()
        check_numbers(
            image_size=image_size,
            batch_size=batch_size,
            max_objects=max_objects,
            num_workers=num_workers,
            box_jitter_px=box_jitter_px,
            negative_share=negative_share,
            seed=seed,
        )
        check_shares(val_share, test_share, prefix="data.")
        folders = named_folders(data_dir)
        self.dataset_weights = dataset_weights or {}
        check_weights("data.dataset_weights", self.dataset_weights, list(folders))
        self.modality_weights = modality_weights or {}
        check_weights("data.modality_weights", self.modality_weights, MODALITY_NAMES)
        self.library = CaseLibrary(
            folders,
            val_share=val_share,
            test_share=test_share,
            seed=seed,
            store_dir=None if store_dir is None else Path(store_dir),
            regions=regions,
        )
        self.image_size = image_size
        self.batch_size = batch_size
        self.max_objects = max_objects
        self.num_workers = num_workers
        self.box_jitter_px = box_jitter_px
        self.box_jitter_inward = box_jitter_inward
        self.negative_share = negative_share
        self.augmentation = (augmentation or AugmentConfig()) if augment else None
        self.seed = seed
        self.regions = regions
        self._negative_probability = 0.0
        self._train_batches: TrainBatches | None = None
        self._progress = TrainingProgress()

    def prepare_data(self) -> None:
        """Brings the store up to date, in one process of each machine, unless told to stop."""
        function = None if self.trainer is None else self.trainer.state.fn
        stage = "fit" if function is None else function.value
        if stage == "predict":
            return
        with suppress(Stopped):
            self.library.load(STAGES[stage], quiet=self.trainer is not None and self._rank > 0)

    def setup(self, stage: str) -> None:
        """Opens the cases of a stage.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            UserError: If the folder, a case or the store is unusable, or the split that the stage
                is about has no case with labels.
            Stopped: On all ranks, if one was told to stop.
        """
        stop_together()
        if stage == "predict":  # reads the cases themselves
            return
        self.library.load(STAGES[stage])
        for split in STAGES[stage][:1]:  # fit does without a validation set
            self.library.require(split)
        if stage == "fit":
            self._train_batches = self._make_train_batches()
            self._progress.begin(self.trainer, self._train_batches)

    def case_paths(self, split: Split) -> list[Path]:
        """Returns the npz files of a split that have labels, sorted."""
        return [case.path for case in self.library.cases(split)]

    def volumes(self, split: Split) -> list[NamedCase]:
        """Returns the labelled volumes and videos of a split; its images where it has no others."""
        return self.library.volumes(split)

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of a whole epoch on each rank, after ``limit_train_batches``."""
        assert self._train_batches is not None, "setup('fit') comes first"
        return self._progress.batches_per_epoch

    @property
    def label_names(self) -> dict[int, str]:
        """Names of the label ids of all loaded cases; the first case's where they differ."""
        return self.library.label_names

    @property
    def intensity_rules(self) -> list[str]:
        """Distinct intensity rules of the loaded cases, as JSON."""
        return self.library.intensity_rules

    @property
    def modalities(self) -> list[str]:
        """Distinct modalities of the loaded cases."""
        return self.library.modalities

    def train_dataloader(self) -> DataLoader[Any]:
        """Returns the loader of the training slices, which begins where training stands."""
        assert self._train_batches is not None, "setup('fit') comes first"
        check_trainer(self.trainer)
        self._progress.align_trainer()
        variation = TrainingVariation(
            seed=self.seed,
            box_jitter_px=self.box_jitter_px,
            jitter_inward=self.box_jitter_inward,
            negative_probability=self._negative_probability,
            augmentation=self.augmentation,
        )
        return self._loader("train", self._train_batches, variation)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Returns the loader of the validation slices; none where the split is empty."""
        return self._fixed_loader("val")

    def test_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Returns the loader of the test slices; none where the split is empty."""
        return self._fixed_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Returns this rank's share of the test cases (of all cases where there are none)."""
        cases = self.library.cases_to_predict()
        return DataLoader(CaseDataset(cases[self._rank :: self._world_size]), batch_size=None)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Leaves whole cases on the CPU, from where propagation streams their slices."""
        if isinstance(batch, Case):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def state_dict(self) -> dict[str, Any]:
        """Returns how far training has come; plain numbers and strings."""
        return self._progress.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lets the next training loader begin where the checkpoint was written.

        Args:
            state_dict: What ``state_dict`` returned.
        """
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return  # validating or testing a checkpoint moves nothing
        self._progress.load_state_dict(state_dict)

    @property
    def _rank(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def _world_size(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    def _make_train_batches(self) -> TrainBatches:
        index = self.library.index("train")
        draws = plan_draws(
            index,
            self.library.groups("train"),
            dataset_weights=self.dataset_weights,
            modality_weights=self.modality_weights,
            max_objects=self.max_objects,
            negative_share=self.negative_share,
        )
        self._negative_probability = draws.negative_probability
        return TrainBatches(
            draws.foreground,
            draws.background,
            draws.n_background,
            weights=draws.weights,
            data_key=index.folder.name,
            seed=self.seed,
            batch_size=self.batch_size,
            rank=self._rank,
            world_size=self._world_size,
            position=lambda: self._progress.position,
        )

    def _fixed_loader(self, split: Split) -> DataLoader[Any] | list[DataLoader[Any]]:
        if not self.library.cases(split):
            return []
        check_trainer(self.trainer)
        index = self.library.index(split)
        batches = FixedBatches(
            np.flatnonzero(index.labels_per_slice() > 0),
            batch_size=self.batch_size,
            rank=self._rank,
            world_size=self._world_size,
        )
        return self._loader(split, batches, None)

    def _loader(
        self,
        split: Split,
        batches: TrainBatches | FixedBatches,
        variation: TrainingVariation | None,
    ) -> DataLoader[Any]:
        dataset = SliceDataset(
            self.library.index(split),
            image_size=self.image_size,
            max_objects=self.max_objects,
            variation=variation,
        )
        return slice_loader(
            dataset,
            batches,
            num_workers=self.num_workers,
            pin_memory=self.trainer is not None
            and self.trainer.strategy.root_device.type == "cuda",
        )
