"""The bounded memory bank: what it keeps, and that nothing readable is dropped."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medsam2_ft.memory import FrameMemory, MemoryBank, MemoryReach, joint_memory

REACH = MemoryReach(features=6, pointers=15)


def entry(value: float) -> FrameMemory:
    return FrameMemory(torch.full((1, 4), value), torch.full((1, 2, 3, 3), value))


def swept(prompted: int, frames: range, keep: bool = False) -> MemoryBank:
    bank = MemoryBank(REACH, keep_around_start=keep)
    bank.pending[prompted] = entry(float(prompted))
    bank.commit()
    for frame in frames:
        bank.add(frame, entry(float(frame)))
    return bank


@given(st.integers(0, 60), st.integers(1, 60), st.booleans())
def test_everything_within_reach_is_kept_and_nothing_else(
    prompted: int, steps: int, backward: bool
) -> None:
    sign = -1 if backward else 1
    bank = swept(prompted, range(prompted + sign, prompted + sign * (steps + 1), sign))
    following = prompted + sign * (steps + 1)
    expected = {following - sign * d for d in range(1, min(15, steps) + 1)}
    assert set(bank.frames) == expected
    for frame, memory in bank.frames.items():
        assert (memory.features is not None) == (abs(following - frame) <= 6)
        assert memory.pointer[0, 0] == frame


def test_size_does_not_grow_with_depth() -> None:
    def numbers(depth: int) -> int:
        bank = swept(0, range(1, depth))
        kept = [memory.features for memory in bank.frames.values() if memory.features is not None]
        return sum(f.numel() for f in kept) + sum(m.pointer.numel() for m in bank.frames.values())

    assert numbers(40) == numbers(400)


def test_what_lies_around_the_prompt_survives_on_request() -> None:
    bank = swept(10, range(11, 100), keep=True)
    assert set(range(11, 25)) <= set(bank.frames)
    assert {f for f in range(11, 25) if bank.frames[f].features is not None} == set(range(11, 16))
    assert len(bank.frames) <= 2 * REACH.pointers


def test_turning_back_keeps_what_the_other_direction_reads() -> None:
    bank = swept(50, range(51, 90), keep=True)
    bank.turn_back(reset=False)
    for frame in range(49, 30, -1):
        readable = {f for f in range(frame + 1, frame + 16) if f > 50 or f < 50}
        assert readable <= set(bank.frames)
        bank.add(frame, entry(float(frame)))
    assert set(bank.frames) == set(range(31, 46))


def test_reset_keeps_the_prompted_frame_only() -> None:
    bank = swept(10, range(11, 20))
    bank.turn_back(reset=True)
    assert bank.key == ((10,), ())
    assert bank.prompted[10].pointer[0, 0] == 10


def test_objects_are_joined_row_by_row() -> None:
    banks = [swept(0, range(1, 4)), swept(0, range(1, 4))]
    banks[1].frames[2] = entry(77.0)
    memory = joint_memory(banks, torch.zeros(1, 2, 3, 3))
    assert set(memory["cond_frame_outputs"]) == {0}
    assert set(memory["non_cond_frame_outputs"]) == {1, 2, 3}
    second = memory["non_cond_frame_outputs"][2]
    assert second["obj_ptr"][:, 0].tolist() == [2, 77]
    assert second["maskmem_features"].shape == (2, 2, 3, 3)
    assert second["maskmem_pos_enc"][-1].shape == (2, 2, 3, 3)


def test_far_frames_are_joined_without_features() -> None:
    memory = joint_memory([swept(0, range(1, 12))], torch.zeros(1, 2, 3, 3))
    far, near = memory["non_cond_frame_outputs"][2], memory["non_cond_frame_outputs"][11]
    assert far["maskmem_features"] is None
    assert near["maskmem_features"] is not None


@pytest.mark.parametrize("reach", [MemoryReach(6, 3), MemoryReach(0, 2)])
def test_reaches_may_be_of_any_order(reach: MemoryReach) -> None:
    bank = MemoryBank(reach, prompted={0: entry(0.0)})
    for frame in range(1, 20):
        bank.add(frame, entry(float(frame)))
    assert len(bank.frames) == max(reach.features, reach.pointers)
