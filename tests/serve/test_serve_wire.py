"""What goes over the wire comes back the same, and what is damaged is refused."""

import ast
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsam2_ft.serve import wire

shapes = st.lists(st.integers(0, 7), min_size=3, max_size=3)


@given(shapes, st.integers(0, 2**32 - 1))
def test_masks_come_back(shape: list[int], seed: int) -> None:
    mask = np.random.default_rng(seed).random(shape) < 0.5
    assert np.array_equal(wire.mask_from_json(wire.mask_to_json(mask), shape), mask)


@given(st.sampled_from(wire.DTYPES), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_arrays_come_back_in_chunks(dtype: str, chunk: int, seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 100, (3, 4, 5)).astype(dtype)[:, ::-1]
    total = array.nbytes
    parts = []
    for number, body, digest in wire.pack_chunks(array, chunk):
        length = wire.chunk_length(number, total, chunk)
        parts.append(wire.unpack_chunk(body, digest, length))
    assert len(parts) == wire.chunk_count(total, chunk)
    found = np.frombuffer(b"".join(parts), wire.little_endian(dtype)).reshape(array.shape)
    assert np.array_equal(found, array)


@given(shapes, st.integers(0, 2**32 - 1))
def test_a_changed_region_turns_one_mask_into_another(shape: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.random(shape) < 0.1, rng.random(shape) < 0.1
    box = wire.changed_box(before, after)
    if box is not None:
        region = wire.region_to_json(1, after[box], [part.start for part in box])
        wire.apply_region(before, region)
    assert np.array_equal(before, after)


def test_the_box_of_a_change_is_tight() -> None:
    before = np.zeros((4, 5, 6), bool)
    after = before.copy()
    after[1, 2, 3] = after[2, 2, 5] = True
    assert wire.changed_box(before, after) == (slice(1, 3), slice(2, 3), slice(3, 6))


@given(st.binary(max_size=200))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.unpack_chunk(noise, None, 100)
    with pytest.raises(wire.WireError):
        wire.unpack_mask(noise, (20, 20))


GOOD = gzip.compress(bytes(100))


@pytest.mark.parametrize(
    ("body", "digest", "message"),
    [
        (GOOD[:-5], None, "truncated"),
        (GOOD + b"x", None, "follow"),
        (GOOD, "0" * 64, "sha256"),
        (gzip.compress(bytes(99)), None, "99 bytes"),
        (gzip.compress(bytes(101)), None, "more than 100"),
        (gzip.compress(bytes(1 << 24)), None, "more than 100"),  # a bomb
        (b"", None, "truncated"),
    ],
    # fixed: gzip writes the time, and every process of a parallel run must find the same tests
    ids=["cut", "longer", "other sum", "too short", "too long", "bomb", "empty"],
)
def test_damaged_chunks(body: bytes, digest: str | None, message: str) -> None:
    with pytest.raises(wire.WireError, match=message):
        wire.unpack_chunk(body, digest, 100)


@pytest.mark.parametrize(
    "change",
    [{"offset": [3, 0, 0]}, {"offset": [-1, 0, 0]}, {"offset": [0, 0]}, {"bits": "?"},
     {"shape": [1, 2, 99]}, {"shape": [1, 2, -2]}, {"shape": "abc"}, {"shape": [10**9] * 3}],
)  # fmt: skip
def test_a_region_that_does_not_fit_changes_nothing(change: dict[str, object]) -> None:
    volume = np.zeros((3, 4, 5), bool)
    region = wire.region_to_json(1, np.ones((1, 2, 2), bool), [0, 0, 0]) | change
    with pytest.raises(wire.WireError):
        wire.apply_region(volume, region)
    assert not volume.any()


def test_the_codec_needs_numpy_alone_and_old_syntax() -> None:
    tree = ast.parse(Path(wire.__file__).read_text(), feature_version=(3, 9))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    standard = {"base64", "binascii", "collections.abc", "gzip", "hashlib", "typing", "zlib"}
    assert imported == standard | {"numpy", "numpy.typing"}
