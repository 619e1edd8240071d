"""Features that wait on disk come back bit for bit; where there is no room, nothing is stored."""

from collections import namedtuple
from typing import Any

import pytest
import torch

from medsam2_ft import feature_file
from medsam2_ft.feature_file import FeatureFile
from medsam2_ft.features import Encoding

Usage = namedtuple("Usage", "total used free")  # as of shutil.disk_usage


def encoding(seed: int, dtype: torch.dtype = torch.float32) -> Encoding:
    generator = torch.Generator().manual_seed(seed)
    fine, middle, coarse = (
        torch.randn(1, channels, side, side, generator=generator).to(dtype)
        for channels, side in ((4, 8), (8, 4), (16, 2))
    )
    return Encoding((fine, middle, coarse))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_come_back_as_they_were(dtype: torch.dtype) -> None:
    stored: FeatureFile[Encoding] = FeatureFile()
    for frame in range(5):
        assert stored.put(frame, encoding(frame, dtype))
    for frame in (4, 0, 2):
        found = stored.get(frame)
        assert found is not None
        for ours, theirs in zip(found.levels, encoding(frame, dtype).levels, strict=True):
            assert ours.dtype == dtype
            assert torch.equal(ours, theirs)
    assert stored.get(5) is None


def test_plain_tensors_and_their_order_in_memory() -> None:
    stored: FeatureFile[torch.Tensor] = FeatureFile()
    tensor = torch.randn(1, 6, 5, 4).to(memory_format=torch.channels_last)
    stored.put(7, tensor)
    found = stored.get(7)
    assert found is not None
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.stride()


def test_places_are_used_again() -> None:
    stored: FeatureFile[Encoding] = FeatureFile()
    for frame in range(50):
        assert stored.put(frame, encoding(frame))
        if frame >= 3:
            stored.discard(frame - 3)
    assert len(stored) == 3
    assert stored.file is not None
    assert stored.file.seek(0, 2) == 4 * encoding(0).nbytes
    found = stored.get(49)
    assert found is not None
    assert torch.equal(found.levels[0], encoding(49).levels[0])


def test_a_disk_without_room_takes_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    free = int(3.5 * encoding(0).nbytes / feature_file.SHARE_OF_FREE_DISK)
    monkeypatch.setattr(feature_file.shutil, "disk_usage", lambda path: Usage(free, 0, free))
    stored: FeatureFile[Encoding] = FeatureFile()
    assert [stored.put(frame, encoding(frame)) for frame in range(5)] == [True] * 3 + [False] * 2
    stored.discard(1)
    assert stored.put(5, encoding(5))
    assert stored.get(1) is stored.get(3) is None
    found = stored.get(5)
    assert found is not None
    assert torch.equal(found.levels[2], encoding(5).levels[2])


class FullDisk:
    """A file on a disk that becomes full after some bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file = file
        self.room = room

    def write(self, data: memoryview) -> int:
        fits = min(self.room, len(data))  # as the kernel does: a part first, the error then
        self.room -= fits
        if fits == 0:
            raise OSError(28, "No space left on device")
        return int(self.file.write(data[:fits]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_disk_that_becomes_full_costs_only_what_does_not_fit() -> None:
    stored: FeatureFile[Encoding] = FeatureFile()
    assert stored.put(0, encoding(0))
    stored.file = FullDisk(stored.file, int(1.5 * encoding(0).nbytes))  # type: ignore[assignment]
    assert [stored.put(frame, encoding(frame)) for frame in (1, 2, 3)] == [True, False, False]
    for frame in (0, 1):
        found = stored.get(frame)
        assert found is not None
        assert torch.equal(found.levels[1], encoding(frame).levels[1])
    assert stored.get(2) is None
