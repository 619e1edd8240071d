"""One slice and its prompts: a pure function of (seed, epoch, slice, repeat)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8
from torch.utils.data import Dataset

from medsam2_ft.data.augment import AugmentConfig, Augmenter
from medsam2_ft.data.batch import Sample, padding_sample
from medsam2_ft.data.case_arrays import LABEL, MAP, X0, X1, Y0, Y1
from medsam2_ft.data.index import HEIGHT, MAPS, MODALITY, WIDTH, SliceIndex
from medsam2_ft.data.sampler import PADDING, SampleKey
from medsam2_ft.data.targets import (
    compact_labels,
    low_resolution_mask,
    resize,
    shrink_labels,
)
from medsam2_ft.prompts import jitter_box, mask_to_box, random_negative_box, scale_boxes

# Input size at which distances in pixels are stated.
REFERENCE_SIZE = 1024


@dataclass(frozen=True)
class TrainingVariation:
    """What training does to a sample and validation does not.

    Attributes:
        seed: Seed of everything that is drawn.
        box_jitter_px: Largest distance by which a side of a box moves, in pixels at input size
            1024; scaled with the input size.
        jitter_inward: Lets sides move inward too.
        negative_probability: Chance that a slice with labels also gets a negative box. A label-free
            slice always gets one.
        augmentation: What to augment, None for nothing.
    """

    seed: int
    box_jitter_px: float
    jitter_inward: bool
    negative_probability: float
    augmentation: AugmentConfig | None


class SliceDataset(Dataset[Sample]):
    """Turns sample keys into samples.

    Args:
        index: Slices of the split.
        image_size: Side S of the model's input in pixels.
        max_objects: Most labels of a slice that are prompted at once. Training draws them,
            validation takes the first ones in ascending order (by map, then by label id).
        variation: What training varies; None for validation: all labels as they are, no jitter, no
            augmentation, no negatives.
    """

    def __init__(
        self,
        index: SliceIndex,
        *,
        image_size: int,
        max_objects: int,
        variation: TrainingVariation | None,
    ) -> None:
        self.index = index
        self.image_size = image_size
        self.max_objects = max_objects
        self.variation = variation

    def __len__(self) -> int:
        """Slices of the split, with and without labels."""
        return len(self.index.slices)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the augmenter behind; each worker builds its own."""
        return {name: value for name, value in vars(self).items() if name != "_augmenter"}

    def __getitem__(self, key: SampleKey) -> Sample:
        """Returns the sample of a key; a padding key gives a black slice without prompts."""
        if key.slice_id == PADDING:
            return padding_sample(self.image_size)
        if self.variation is None:
            objects = self.index.objects_of(key.slice_id)[: self.max_objects]
            image, maps = self._read(key.slice_id, objects)
            masks, boxes = self._prompts(maps, len(objects), None)
            return self._sample(key.slice_id, image, masks, boxes, [])
        repeat = [key.repeat] if key.repeat else []  # a slice that comes again varies anew
        rng = np.random.default_rng([self.variation.seed, key.epoch, key.slice_id, *repeat])
        return self._training_sample(key.slice_id, self.variation, rng)

    def _training_sample(
        self, slice_id: int, variation: TrainingVariation, rng: np.random.Generator
    ) -> Sample:
        objects = self.index.objects_of(slice_id)
        labelled = len(objects) > 0
        if len(objects) > self.max_objects:
            drawn = rng.choice(len(objects), self.max_objects, replace=False)
            objects = objects[np.sort(drawn)]
        image, maps = self._read(slice_id, objects)
        image, maps = self._augment(image, maps, len(objects), rng)
        masks, boxes = self._prompts(maps, len(objects), rng)
        negatives = []
        if not labelled or rng.random() < variation.negative_probability:
            box = self._negative(maps, rng)
            negatives = [] if box is None else [box]
        return self._sample(slice_id, image, masks, boxes, negatives)

    def _read(
        self, slice_id: int, objects: Int32[np.ndarray, "n 8"]
    ) -> tuple[UInt8[np.ndarray, "h w *c"], list[UInt8[np.ndarray, "h w"]]]:
        """Reads a slice and its label maps; the i-th object has the number i + 1 in its map."""
        case, z = (int(value) for value in self.index.slices[slice_id])
        folder = str(self.index.case_folders[case])
        image = self.index.reader.image(folder, z)
        maps, first, n_maps = [], 1, int(self.index.cases[case, MAPS])
        for map_index in np.unique(self.index.objects_of(slice_id)[:, MAP]):
            chosen = [int(row[LABEL]) for row in objects if row[MAP] == map_index]
            if map_index < n_maps:
                plane = self.index.reader.labels(folder, int(map_index), z)
                maps.append(compact_labels(plane, chosen, first))
            else:
                # Regions overlap their labels and each other: a map for each.
                maps += [
                    self._region(case, region, z, number)
                    for number, region in enumerate(chosen, start=first)
                ]
            first += len(chosen)
        return image, maps or [np.zeros(image.shape[:2], np.uint8)]

    def _region(self, case: int, region: int, z: int, number: int) -> UInt8[np.ndarray, "h w"]:
        """Returns a map with the number where a slice shows one of the region's labels."""
        folder = str(self.index.case_folders[case])
        labels = self.index.region_labels(case, region)
        planes = [
            self.index.reader.labels(folder, map_index, z)
            for map_index in range(int(self.index.cases[case, MAPS]))
        ]
        inside = np.any([np.isin(plane, labels) for plane in planes], axis=0)
        numbered: np.ndarray = inside.astype(np.uint8) * np.uint8(number)
        return numbered

    def _augment(
        self,
        image: UInt8[np.ndarray, "h w *c"],
        maps: list[UInt8[np.ndarray, "h w"]],
        n_objects: int,
        rng: np.random.Generator,
    ) -> tuple[UInt8[np.ndarray, "h2 w2 *c"], list[UInt8[np.ndarray, "h2 w2"]]]:
        """Augments at the stored size or, where that is larger, at the input size."""
        seed = int(rng.integers(2**32))
        if self._augmenter is None:
            return image, maps
        height, width = image.shape[:2]
        small = (min(height, self.image_size), min(width, self.image_size))
        if small != (height, width):
            image = cv2.resize(image, small[::-1], interpolation=cv2.INTER_AREA)
            maps = [shrink_labels(label_map, small) for label_map in maps]
        moved, moved_maps = self._augmenter(image, maps, seed)
        # A slice whose objects all left the picture is used as it is.
        if n_objects and not any(((m > 0) & (m <= n_objects)).any() for m in moved_maps):
            return image, maps
        return moved, moved_maps

    @cached_property
    def _augmenter(self) -> Augmenter | None:
        config = self.variation.augmentation if self.variation else None
        return Augmenter(config) if config else None

    def _prompts(
        self,
        maps: list[UInt8[np.ndarray, "h w"]],
        n_objects: int,
        rng: np.random.Generator | None,
    ) -> tuple[list[Bool[np.ndarray, "l l"]], list[Float32[np.ndarray, " 4"]]]:
        """Returns target and box (input pixels) of every object that is still in the picture."""
        masks, boxes = [], []
        for number in range(1, n_objects + 1):
            mask = _find(maps, number)
            box = mask_to_box(mask)
            if box is None:  # augmentation moved it out
                continue
            masks.append(low_resolution_mask(mask, self.image_size // 4))
            boxes.append(self._to_input(box, mask.shape, rng))
        return masks, boxes

    def _to_input(
        self,
        box: Float32[np.ndarray, " 4"],
        hw: tuple[int, ...],
        rng: np.random.Generator | None,
    ) -> Float32[np.ndarray, " 4"]:
        square = (self.image_size, self.image_size)
        scaled: np.ndarray = scale_boxes(box[None], (hw[0], hw[1]), square)[0]
        if rng is None or self.variation is None:
            return scaled
        largest = self.variation.box_jitter_px * self.image_size / REFERENCE_SIZE
        return jitter_box(scaled, rng, largest, square, inward=self.variation.jitter_inward)

    def _negative(
        self, maps: list[UInt8[np.ndarray, "h w"]], rng: np.random.Generator
    ) -> Float32[np.ndarray, " 4"] | None:
        """Draws a box without labels, as large in the picture as some object of the split."""
        row = int(rng.integers(len(self.index.objects)))
        model = self.index.objects[row]
        slice_id = int(np.searchsorted(self.index.starts, row, side="right")) - 1
        shape = self.index.cases[self.index.slices[slice_id, 0]]
        occupied = np.any(maps, axis=0)
        height, width = occupied.shape
        size_wh = (
            round(float(model[X1] - model[X0] + 1) / float(shape[WIDTH]) * width),
            round(float(model[Y1] - model[Y0] + 1) / float(shape[HEIGHT]) * height),
        )
        box = random_negative_box(occupied, size_wh, rng)
        square = (self.image_size, self.image_size)
        return None if box is None else scale_boxes(box[None], (height, width), square)[0]

    def _sample(
        self,
        slice_id: int,
        image: UInt8[np.ndarray, "h w *c"],
        masks: list[Bool[np.ndarray, "l l"]],
        boxes: list[Float32[np.ndarray, " 4"]],
        negatives: list[Float32[np.ndarray, " 4"]],
    ) -> Sample:
        low = self.image_size // 4
        empty = [np.zeros((low, low), bool) for _ in negatives]
        return Sample(
            image=np.ascontiguousarray(resize(image, self.image_size)),
            masks=np.array([*masks, *empty], bool).reshape(-1, low, low),
            boxes_xyxy=np.array([*boxes, *negatives], np.float32).reshape(-1, 4),
            modality=int(self.index.cases[self.index.slices[slice_id, 0], MODALITY]),
        )


def _find(maps: list[UInt8[np.ndarray, "h w"]], number: int) -> Bool[np.ndarray, "h w"]:
    """Returns where a number stands; it occurs in one map only."""
    found: np.ndarray = maps[0] == number
    for label_map in maps[1:]:
        found |= label_map == number
    return found
