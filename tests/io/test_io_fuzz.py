"""Damaged files of every format: a valid result or a UserError, never another exception."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_labels, read_volume, write_labels, write_volume
from medsam2_ft.io.npz import case_header, read_case, write_case
from medsam2_ft.types import Case, Geometry, LabelVolume, Volume

GEOMETRY = Geometry((2.5, 0.9, 0.8), (1.0, -2.0, 3.0))
FUZZ = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
mutations = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4
)


def mutate(whole: bytes, changes: list[tuple[float, int]], kept: float) -> bytes:
    """Flips bits at relative positions and keeps only the first part."""
    data = bytearray(whole)
    for position, mask in changes:
        data[int(position * len(data))] ^= mask
    return bytes(data[: int(np.ceil(kept * len(data)))])


def one_line(caught: UserError, path: Path) -> None:
    assert str(path) in str(caught)
    assert "\n" not in str(caught)


def check_case(case: Case) -> None:
    assert case.image.dtype == np.uint8
    assert case.image.ndim == 3 or case.image.shape[3] == 3
    assert all(m.shape == case.image.shape[:3] for m in case.label_maps)
    assert all(m.dtype in (np.uint8, np.uint16) for m in case.label_maps)
    assert all(np.isfinite(s) and s > 0 for s in case.geometry.spacing_mm)
    assert case.boxes is None or len(case.boxes) == len(case.box_labels)


@pytest.fixture(scope="module")
def npz_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = synthetic.write_npz(
        tmp_path_factory.mktemp("fuzz") / "CT_x.npz",
        (2, 9, 8),
        modality="CT",
        origin=np.zeros(3),
        label_names='{"1": "a"}',
        intensity='{"kind": "keep"}',
        boxes=np.array([[0, 0, 1, 1]]),
    )
    return path.read_bytes()


@FUZZ
@given(mutations, st.floats(0.5, 1) | st.just(1.0))
def test_mutated_npz(
    tmp_path: Path, npz_bytes: bytes, changes: list[tuple[float, int]], kept: float
) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(mutate(npz_bytes, changes, kept))
    for read in (case_header, read_case):
        try:
            found = read(path)
        except UserError as caught:
            one_line(caught, path)
        else:
            if isinstance(found, Case):
                check_case(found)


def test_every_single_byte_of_an_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    buffer = io.BytesIO()
    np.savez(buffer, imgs=np.arange(30, dtype=np.uint8).reshape(2, 3, 5))
    whole = buffer.getvalue()
    for position in range(len(whole)):
        for mask in (0x01, 0xFF):
            path.write_bytes(mutate(whole, [(position / len(whole) + 1e-9, mask)], 1.0))
            try:
                case = read_case(path)
            except UserError as caught:
                one_line(caught, path)
            else:  # bytes that mean nothing, such as a date
                np.testing.assert_array_equal(case.image.ravel(), np.arange(30))


any_array = hnp.arrays(
    st.sampled_from(
        ["u1", "i2", "u4", "i8", "u8", "f2", "f4", ">f8", "?", "c8", "U3", "S2", "M8[s]"]
    ),
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
)
texts = st.text(max_size=20) | st.sampled_from(['{"1": "a"}', '{"kind": "minmax"}', "CT", "zyx"])
keys = st.sampled_from(
    [
        "gts",
        "gts_1",
        "spacing",
        "direction",
        "origin",
        "boxes",
        "box_labels",
        "modality",
        "label_names",
        "regions",
        "intensity",
        "axes",
    ]
)


@FUZZ
@given(any_array, st.dictionaries(keys, any_array | texts.map(np.array), max_size=4))
@example(np.zeros((2, 2, 2), "u1"), {"gts": np.full((2, 2, 2), 2**64 - 1, "u8")})
@example(np.zeros((2, 2, 2), "f2"), {"spacing": np.full(3, 1e308)})
def test_random_arrays_under_the_known_keys(
    tmp_path: Path, imgs: np.ndarray[Any, Any], others: dict[str, np.ndarray[Any, Any]]
) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, imgs=imgs, **others)  # type: ignore[arg-type]
    try:
        case_header(path)
        case = read_case(path)
    except UserError as caught:
        one_line(caught, path)
        return
    check_case(case)
    write_case(tmp_path / "again.npz", case)
    np.testing.assert_array_equal(read_case(tmp_path / "again.npz").image, case.image)


SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".nhdr", ".seg.nrrd"]


@pytest.fixture(scope="module")
def volume_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("volumes")
    image, labels = synthetic.make_volume((3, 9, 8))
    files = {}
    for suffix in SUFFIXES:
        path = folder / f"x{suffix}"
        if suffix == ".seg.nrrd":
            write_labels(
                path, LabelVolume((labels, (labels > 0) * np.uint8(9)), {1: "a"}, GEOMETRY)
            )
        else:
            write_volume(path, Volume(image.astype(np.int16), GEOMETRY))
        files[suffix] = path.read_bytes()
    return files


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(FUZZ, max_examples=60)
@given(changes=mutations, kept=st.floats(0, 1) | st.just(1.0))
def test_mutated_volumes(
    tmp_path: Path,
    volume_files: dict[str, bytes],
    suffix: str,
    changes: list[tuple[float, int]],
    kept: float,
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(mutate(volume_files[suffix], changes, kept))
    reads = (read_labels,) if suffix == ".seg.nrrd" else (read_volume, read_labels)
    for read in reads:
        try:
            read(path)
        except UserError as caught:
            one_line(caught, path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_truncation_of_a_volume(
    tmp_path: Path, volume_files: dict[str, bytes], suffix: str
) -> None:
    """No part of a volume is ever taken for the whole."""
    whole = volume_files[suffix]
    path = tmp_path / f"x{suffix}"
    read: Any = read_labels if suffix == ".seg.nrrd" else read_volume
    for length in range(0, len(whole) - 8, max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            read(path)
