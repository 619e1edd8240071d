import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixed_set import cells

from medsam2_ft.data.augment import AugmentConfig
from medsam2_ft.data.dataset import SliceDataset, TrainingVariation
from medsam2_ft.data.index import SliceIndex
from medsam2_ft.data.sampler import PADDING, SampleKey
from medsam2_ft.data.store import update_store
from medsam2_ft.prompts import mask_to_box, scale_boxes

MakeCase = Callable[..., Path]
LABELS = (2, 5, 11, 300)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SliceIndex:
    """Gray and colour, smaller and larger than the input, one and two maps."""
    folder = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(0)
    paths = []
    for k, (shape, maps) in enumerate(
        [((4, 50, 60), 1), ((3, 90, 40, 3), 1), ((3, 300, 200), 2), ((2, 64, 64), 1)]
    ):
        labels = [np.zeros(shape[:3], np.uint16) for _ in range(maps)]
        for n, label in enumerate(LABELS):
            y, x = 3 + 9 * (n // 2), 3 + 9 * (n % 2)
            labels[n % maps][1:, y : y + 7, x : x + 7] = label
        path = folder / f"case{k}.npz"
        extra = {"gts_1": labels[1]} if maps == 2 else {}
        np.savez(path, imgs=rng.integers(0, 256, shape).astype(np.uint8), gts=labels[0], **extra)
        paths.append(path)
    root = folder / "store"
    root.mkdir()
    return SliceIndex.create(root, update_store(root, paths, quiet=True))


def variation(**changes: Any) -> TrainingVariation:
    options: dict[str, Any] = {
        "seed": 0,
        "box_jitter_px": 20.0,
        "jitter_inward": False,
        "negative_probability": 0.5,
        "augmentation": AugmentConfig(),
    }
    return TrainingVariation(**(options | changes))


def dataset(index: SliceIndex, vary: TrainingVariation | None, **changes: Any) -> SliceDataset:
    options: dict[str, Any] = {"image_size": 128, "max_objects": 8}
    return SliceDataset(index, **(options | changes), variation=vary)


def labelled(index: SliceIndex) -> np.ndarray:
    return np.flatnonzero(index.labels_per_slice() > 0)


def test_validation_sample_is_the_slice_itself(index: SliceIndex) -> None:
    data = dataset(index, None)
    for slice_id in labelled(index):
        case, z = index.slices[slice_id]
        folder = str(index.case_folders[case])
        image = index.reader.image(folder, int(z))
        maps = [index.reader.labels(folder, m, int(z)) for m in range(index.cases[case, 4])]
        sample = data[SampleKey(0, int(slice_id))]
        assert sample.image.shape == (128, 128, *image.shape[2:])
        objects = index.objects_of(int(slice_id))
        assert len(sample.masks) == len(sample.boxes_xyxy) == len(objects) == 4
        for row, box, mask in zip(objects, sample.boxes_xyxy, sample.masks, strict=True):
            tight = mask_to_box(maps[row[1]] == row[2])
            expected = scale_boxes(tight[None], image.shape[:2], (128, 128))[0]
            np.testing.assert_array_equal(box, expected)
            x0, y0, x1, y1 = (box / 4).astype(int)
            assert mask[y0 : y1 + 2, x0 : x1 + 2].sum() == mask.sum() > 0
        again = dataset(index, None)[SampleKey(7, int(slice_id))]
        np.testing.assert_array_equal(sample.boxes_xyxy, again.boxes_xyxy)


def test_validation_takes_the_first_labels_in_ascending_order(index: SliceIndex) -> None:
    slice_id = int(labelled(index)[0])
    few = dataset(index, None, max_objects=2)[SampleKey(0, slice_id)]
    every = dataset(index, None)[SampleKey(0, slice_id)]
    np.testing.assert_array_equal(few.boxes_xyxy, every.boxes_xyxy[:2])
    assert index.objects_of(slice_id)[:2, 2].tolist() == [2, 5]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 11), st.integers(0, 50), st.sampled_from([64, 256]), st.integers(1, 4))
def test_training_sample_is_well_formed_and_pure(
    index: SliceIndex, slice_id: int, epoch: int, size: int, most: int
) -> None:
    vary = variation()
    options = {"image_size": size, "max_objects": most}
    key = SampleKey(epoch, slice_id)
    data = dataset(index, vary, **options)
    sample = data[key]
    assert sample.image.shape[:2] == (size, size)
    assert sample.image.dtype == np.uint8
    assert sample.masks.shape[1:] == (size // 4, size // 4)
    assert len(sample.masks) == len(sample.boxes_xyxy) <= most + 1
    assert (sample.boxes_xyxy[:, :2] <= sample.boxes_xyxy[:, 2:]).all()
    assert (sample.boxes_xyxy >= 0).all()
    assert (sample.boxes_xyxy <= size).all()
    positives = sample.masks.any(axis=(1, 2))
    if index.labels_per_slice()[slice_id]:
        assert positives.any()
    else:
        assert not positives.any()
        assert len(positives) == 1
    data[SampleKey(epoch + 1, 1)]
    for twin in (data[key], pickle.loads(pickle.dumps(dataset(index, vary, **options)))[key]):
        np.testing.assert_array_equal(twin.image, sample.image)
        np.testing.assert_array_equal(twin.masks, sample.masks)
        np.testing.assert_array_equal(twin.boxes_xyxy, sample.boxes_xyxy)


def test_epochs_and_seeds_vary(index: SliceIndex) -> None:
    slice_id = int(labelled(index)[0])
    keys = [(seed, epoch) for seed in range(2) for epoch in range(3)]
    boxes = [
        dataset(index, variation(seed=seed))[SampleKey(epoch, slice_id)].boxes_xyxy[0]
        for seed, epoch in keys
    ]
    assert len({tuple(box) for box in boxes}) == len(keys)


def test_boxes_hold_the_augmented_mask_with_outward_jitter(index: SliceIndex) -> None:
    data = dataset(index, variation(negative_probability=0.0), image_size=256)
    for slice_id in labelled(index):
        for epoch in range(4):
            sample = data[SampleKey(epoch, int(slice_id))]
            for mask, box in zip(sample.masks, sample.boxes_xyxy, strict=True):
                inner = mask_to_box(mask)
                # A cell that is half covered may reach two pixels beyond the object, and the box
                # of the object moves at most five pixels outward at this input size.
                assert (box[:2] <= 4 * inner[:2] + 4).all()
                assert (box[2:] >= 4 * inner[2:] - 4).all()
                assert (np.abs(box - 4 * inner) <= 4 + 4 + 5 + 4).all()


def test_jitter_is_scaled_with_the_input(index: SliceIndex) -> None:
    slice_id = int(labelled(index)[0])
    plain = variation(augmentation=None, negative_probability=0.0)
    for size, largest in ((64, 20 / 16), (512, 10.0)):
        tight = dataset(index, None, image_size=size)[SampleKey(0, slice_id)].boxes_xyxy
        data = dataset(index, plain, image_size=size)
        moves = np.abs([data[SampleKey(e, slice_id)].boxes_xyxy - tight for e in range(40)])
        assert 0.8 * largest < moves.max() <= largest + 1e-3


def test_inward_jitter_is_an_option(index: SliceIndex) -> None:
    slice_id = int(labelled(index)[0])
    tight = dataset(index, None)[SampleKey(0, slice_id)].boxes_xyxy
    for inward in (False, True):
        vary = variation(augmentation=None, negative_probability=0.0, jitter_inward=inward)
        data = dataset(index, vary)
        moved = np.stack([data[SampleKey(e, slice_id)].boxes_xyxy for e in range(20)])
        assert (moved[:, :, 0] > tight[:, 0]).any() == inward


def test_objects_of_a_crowded_slice_are_drawn(index: SliceIndex) -> None:
    slice_id = int(labelled(index)[0])
    vary = variation(augmentation=None, negative_probability=0.0, box_jitter_px=0.0)
    data = dataset(index, vary, max_objects=2)
    every = {tuple(b) for b in dataset(index, None)[SampleKey(0, slice_id)].boxes_xyxy}
    drawn = [data[SampleKey(epoch, slice_id)].boxes_xyxy for epoch in range(30)]
    assert all(len({tuple(b) for b in boxes}) == 2 for boxes in drawn)
    assert {tuple(b) for boxes in drawn for b in boxes} == every


def test_negative_boxes_hold_no_label_of_any_map(index: SliceIndex) -> None:
    vary = variation(augmentation=None, negative_probability=1.0)
    data = dataset(index, vary, max_objects=1, image_size=64)
    found = 0
    for slice_id in labelled(index):
        every = dataset(index, None, image_size=64)[SampleKey(0, int(slice_id))]
        for epoch in range(10):
            sample = data[SampleKey(epoch, int(slice_id))]
            for box in sample.boxes_xyxy[~sample.masks.any(axis=(1, 2))]:
                found += 1
                for other in every.boxes_xyxy:
                    apart = (box[0] > other[2]) | (box[2] < other[0])
                    assert apart | (box[1] > other[3]) | (box[3] < other[1])
    assert found > 40


def test_share_of_negatives_follows_the_probability(index: SliceIndex) -> None:
    data = dataset(index, variation(negative_probability=0.3, augmentation=None), max_objects=1)
    slice_id = int(labelled(index)[0])
    count = sum(len(data[SampleKey(epoch, slice_id)].masks) - 1 for epoch in range(300))
    assert 60 < count < 120


def test_object_moved_out_of_the_picture_is_dropped_and_the_last_one_kept(
    index: SliceIndex,
) -> None:
    config = AugmentConfig(affine_p=1.0, translate=0.9, scale=0.5)
    data = dataset(index, variation(augmentation=config, negative_probability=0.0))
    counts = [
        len(data[SampleKey(epoch, int(slice_id))].masks)
        for slice_id in labelled(index)
        for epoch in range(20)
    ]
    assert min(counts) >= 1
    assert any(count < 4 for count in counts)


def test_padding_is_blank(index: SliceIndex) -> None:
    sample = dataset(index, variation())[SampleKey(3, PADDING)]
    assert sample.masks.shape == (0, 32, 32)
    assert not sample.image.any()


def test_dataset_counts_all_slices(index: SliceIndex) -> None:
    assert len(dataset(index, None)) == 12


@pytest.mark.parametrize("vary", [None, variation(augmentation=None, negative_probability=0.0)])
def test_a_region_is_the_union_of_its_labels(
    vary: TrainingVariation | None, tmp_path: Path
) -> None:
    one, two = np.zeros((2, 1, 64, 64), np.uint8)
    one[0, 8:24, 8:24], one[0, 40:56, 40:56], two[0, 16:32, 16:32] = 1, 3, 2
    path = tmp_path / "nested.npz"
    image = np.zeros((1, 64, 64), np.uint8)
    np.savez(path, imgs=image, gts=one, gts_1=two, regions='{"whole": [1, 2]}')
    root = tmp_path / "store"
    root.mkdir()
    index = SliceIndex.create(root, update_store(root, [path], quiet=True), regions=True)
    sample = dataset(index, vary, image_size=64)[SampleKey(0, 0)]
    assert len(sample.masks) == 4
    expected = [one[0] == 1, one[0] == 3, two[0] == 2, (one[0] == 1) | (two[0] == 2)]
    for mask, whole in zip(sample.masks, expected, strict=True):
        np.testing.assert_array_equal(mask, whole[2::4, 2::4])
    if vary is None:
        np.testing.assert_array_equal(sample.boxes_xyxy[3], [8, 8, 31, 31])


def test_hundreds_of_instances_with_large_ids_and_tiny_slices(tmp_path: Path) -> None:
    image, labels = cells((220, 240), 300, seed=1)
    np.savez(tmp_path / "many.npz", imgs=image, gts=labels)
    np.savez(tmp_path / "tiny.npz", imgs=image[:29, :30], gts=(labels[:29, :30] > 0).astype("u1"))
    root = tmp_path / "store"
    root.mkdir()
    paths = [tmp_path / "many.npz", tmp_path / "tiny.npz"]
    index = SliceIndex.create(root, update_store(root, paths, quiet=True))
    assert index.labels_per_slice().tolist() == [300, 1]
    most = dataset(index, variation(augmentation=None), max_objects=254)[SampleKey(0, 0)]
    assert most.masks.any(axis=(1, 2)).sum() == 254
    first = dataset(index, None, image_size=256, max_objects=254)[SampleKey(0, 0)]
    for label, box in zip((1, 748, 760), first.boxes_xyxy[[0, 249, 253]], strict=True):
        tight = mask_to_box(labels == label)
        np.testing.assert_allclose(box, scale_boxes(tight[None], (220, 240), (256, 256))[0])
    tiny = dataset(index, variation())[SampleKey(0, 1)]
    assert tiny.image.shape == (128, 128)
    assert tiny.masks.any()
