from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from synthetic import make_volume

from medsam2_ft.inspection.facts import HISTOGRAM_BINS, measure_case, read_facts
from medsam2_ft.io.npz import read_case
from medsam2_ft.prepare.leakage import image_sha256
from medsam2_ft.types import Case, Geometry


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    seed=st.integers(0, 2**32 - 1),
    high=st.sampled_from([1, 3, 70_000]),
)
def test_labels_against_numpy(shape: tuple[int, int, int], seed: int, high: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, min(high, 65535), shape, endpoint=True).astype(np.uint16)
    labels[rng.random(shape) < 0.7] = 0
    image = rng.integers(0, 255, shape, np.uint8, endpoint=True)
    facts = measure_case(Case("c", image, (labels,), Geometry((2.0, 0.5, 0.25))), "c.npz", None)
    assert [label.id for label in facts.labels] == np.unique(labels[labels > 0]).tolist()
    for label in facts.labels:
        z, y, x = np.nonzero(labels == label.id)
        assert label.voxels == len(z)
        assert label.slices == len(set(z.tolist()))
        assert label.box_xyzxyz == (x.min(), y.min(), z.min(), x.max(), y.max(), z.max())
        edge = np.isin(x, (0, shape[2] - 1)) | np.isin(y, (0, shape[1] - 1))
        assert label.at_border == edge.any()
        assert label.volume_mm3 == (None if shape[0] == 1 else pytest.approx(len(z) * 0.25))


def test_gray_values_of_a_colour_image() -> None:
    image, labels = make_volume((2, 20, 30), colour=True)
    facts = measure_case(Case("c", image, (labels,)), "a/c.npz", "val")
    assert (facts.gray_min, facts.gray_max) == (image.min(), image.max())
    assert facts.gray_mean == pytest.approx(image.mean())
    assert facts.histogram == tuple(np.histogram(image, HISTOGRAM_BINS, (0, 256))[0])
    assert facts.image_sha256 == image_sha256(image)
    assert (facts.colour, facts.size_zyx, facts.split) == (True, (2, 20, 30), "val")


def test_kinds_overlaps_and_absent_names() -> None:
    image = np.zeros((3, 4, 5), np.uint8)
    one, two = np.zeros_like(image), np.zeros_like(image)
    one[1, 1:3, 1:3], two[1, 2, 2] = 7, 3
    names = {7: "disc", 3: "cup", 9: "vessel"}
    facts = measure_case(Case("v", image, (one, two), label_names=names, is_video=True), "v", None)
    assert [(label.id, label.name, label.volume_mm3) for label in facts.labels] == [
        (3, "cup", None),
        (7, "disc", None),
    ]
    assert (facts.kind, facts.absent_labels) == ("video", (9,))
    assert measure_case(Case("s", image[:1]), "s", None).kind == "2D"
    assert measure_case(Case("d", image), "d", None).kind == "3D"


def test_real_volume_against_scipy(test_data: Path) -> None:
    path = min((test_data / "CT" / "medsam2_recist_npz").glob("*.npz"))
    facts, case = read_facts(path, path.name, None), read_case(path)
    with np.load(path) as stored:
        spacing, labels = stored["spacing"], stored["gts"]
    assert facts.spacing_mm == tuple(spacing[::-1])
    for label in facts.labels:
        volume = np.count_nonzero(labels == label.id) * np.prod(spacing)
        assert label.volume_mm3 == pytest.approx(volume)
        z, y, x = ndimage.find_objects((labels == label.id).astype(np.uint8))[0]
        starts = (x.start, y.start, z.start, x.stop - 1, y.stop - 1, z.stop - 1)
        assert label.box_xyzxyz == starts
    assert facts.labels
    assert facts.modality == case.modality == "CT"
