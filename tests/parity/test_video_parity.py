"""Our memory propagation against Meta's SAM2VideoPredictor, frame by frame."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from meta_video import Results, meta_results
from numpy.typing import NDArray

from medsam2_ft import follow_memory
from medsam2_ft.propagate import ObjectPrompt, propagate
from medsam2_ft.sam2_adapter import Sam2

TOLERANCE = 1e-5
# Meta's predictor passes objects one by one, ours up to four together: processors choose other
# kernels then and round otherwise (6e-7). Where that moves a logit of 0, the mask that goes into
# memory has another pixel: 6e-5 was seen. The negative controls below lie at 6e-4 and more.
TOLERANCE_TOGETHER = 2e-4
BOXES = np.array([[12, 30, 45, 90], [55, 25, 90, 95], [40, 60, 62, 85]], dtype=np.float32)
pytestmark = pytest.mark.filterwarnings(
    # Meta fills holes only where its CUDA extension is built, and says so otherwise.
    "ignore:cannot import name '_C':UserWarning",
)


def our_results(
    model: Sam2, frames: NDArray[np.uint8], prompts: Sequence[ObjectPrompt], **options: Any
) -> Results:
    return {
        (object_id, result.frame): logits
        for result in propagate(model, frames, prompts, strategy="memory", **options)
        for object_id, logits in zip(result.object_ids, result.logits, strict=True)
    }


def worst(actual: Results, expected: Results) -> float:
    """Largest difference over all frames and objects, relative to the range of the logits."""
    assert actual.keys() == expected.keys()
    everything = torch.stack(list(expected.values()))
    span = everything.max() - everything.min()
    return max(float((actual[key] - expected[key]).abs().max() / span) for key in expected)


def compare(
    model: Sam2,
    frames: NDArray[np.uint8],
    prompts: Sequence[ObjectPrompt],
    expected: Results,
    **options: Any,
) -> None:
    """Asserts that objects equal Meta's, alone and together."""
    alone: Results = {}
    for prompt in prompts:
        alone |= our_results(model, frames, [prompt], **options)
    assert worst(alone, expected) <= TOLERANCE
    together = our_results(model, frames, prompts, **options)
    assert worst(together, expected) <= TOLERANCE_TOGETHER


def prompts_at(frame: int, count: int, objects: int) -> list[ObjectPrompt]:
    return [ObjectPrompt.from_box(5 + i, frame, BOXES[i], (0, count - 1)) for i in range(objects)]


@pytest.fixture(scope="module")
def tiny(random_model: Callable[..., Sam2]) -> Sam2:
    """Long sweeps need a fast model: the miniature at 64."""
    return random_model("tiny_test", 64, seed=3)


@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize("reverses", [(False, True), (True, False)])
def test_memory_equals_the_video_predictor(
    objects: int,
    reverses: tuple[bool, bool],
    tiny: Sam2,
    chest: NDArray[np.uint8],
    tmp_path: Path,
    assert_telling: Callable[[torch.Tensor], None],
) -> None:
    prompts = prompts_at(15, len(chest), objects)
    expected = meta_results(tiny, chest, prompts, tmp_path, reverses=reverses)
    assert_telling(torch.stack(list(expected.values())))
    compare(tiny, chest, prompts, expected)


@pytest.mark.parametrize("objects", [1, 3])
def test_memory_without_reset_equals_two_sweeps_on_one_state(
    objects: int, tiny: Sam2, chest: NDArray[np.uint8], tmp_path: Path
) -> None:
    prompts = prompts_at(17, len(chest), objects)
    expected = meta_results(tiny, chest, prompts, tmp_path, reset=False)
    compare(tiny, chest, prompts, expected, reset_between_directions=False)
    assert worst(our_results(tiny, chest, prompts), expected) > TOLERANCE_TOGETHER


def test_different_prompted_frames_and_ranges_equal_one_run_per_object(
    tiny: Sam2, chest: NDArray[np.uint8], tmp_path: Path
) -> None:
    prompts = [
        ObjectPrompt.from_box(1, 4, BOXES[0], (0, 30)),
        ObjectPrompt.from_box(2, 20, BOXES[1], (2, 33)),
        ObjectPrompt.from_box(3, 20, BOXES[2], (19, 22)),
    ]
    expected: Results = {}
    for prompt in prompts:
        first, last = prompt.z_range
        alone = meta_results(tiny, chest, [prompt], tmp_path)
        expected |= {key: mask for key, mask in alone.items() if first <= key[1] <= last}
    compare(tiny, chest, prompts, expected)


def test_two_frames(tiny: Sam2, chest: NDArray[np.uint8], tmp_path: Path) -> None:
    prompts = prompts_at(0, 2, 1)
    expected = meta_results(tiny, chest[:2], prompts, tmp_path, reverses=(False,))
    assert worst(our_results(tiny, chest[:2], prompts), expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("variant", "size", "count"),
    [
        ("sam2.1_hiera_tiny", 256, 6),
        ("sam2_hiera_tiny", 256, 4),
        pytest.param("sam2.1_hiera_tiny", 256, 24, marks=pytest.mark.slow),
        pytest.param("sam2.1_hiera_tiny", 512, 6, marks=pytest.mark.slow),
    ],
)
def test_released_models(
    variant: str,
    size: int,
    count: int,
    chest: NDArray[np.uint8],
    tmp_path: Path,
    random_model: Callable[..., Sam2],
    assert_telling: Callable[[torch.Tensor], None],
) -> None:
    model = random_model(variant, size)
    frames = chest[5 : 5 + count]
    prompts = prompts_at(count // 2 - 1, count, 3)
    expected = meta_results(model, frames, prompts, tmp_path)
    assert_telling(torch.stack(list(expected.values())))
    compare(model, frames, prompts, expected)


Memory = dict[str, dict[int, dict[str, Any]]]


def _without_pointers(memory: Memory) -> Memory:
    for entries in memory.values():
        for entry in entries.values():
            entry["obj_ptr"] = torch.zeros_like(entry["obj_ptr"])
    return memory


def _without_farthest_memory(memory: Memory) -> Memory:
    """Takes away one frame: the farthest of those whose spatial memory is read."""
    others = memory["non_cond_frame_outputs"]
    prompted = next(iter(memory["cond_frame_outputs"]))
    with_features = [f for f, e in others.items() if e["maskmem_features"] is not None]
    if len(with_features) == 6:
        del others[min(with_features, key=lambda frame: abs(frame - prompted))]
    return memory


class TestNegativeControls:
    """What a mistake in the memory does: the comparison above must notice it."""

    @pytest.fixture
    def reference(
        self, tiny: Sam2, chest: NDArray[np.uint8], tmp_path: Path
    ) -> tuple[list[ObjectPrompt], Results]:
        prompts = prompts_at(15, len(chest), 1)
        return prompts, meta_results(tiny, chest, prompts, tmp_path)

    @pytest.mark.parametrize("damage", [_without_pointers, _without_farthest_memory])
    def test_damaged_memory_is_noticed(
        self,
        damage: Callable[[Memory], Memory],
        reference: tuple[list[ObjectPrompt], Results],
        tiny: Sam2,
        chest: NDArray[np.uint8],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        original = follow_memory.joint_memory
        monkeypatch.setattr(follow_memory, "joint_memory", lambda *args: damage(original(*args)))
        prompts, expected = reference
        assert worst(our_results(tiny, chest, prompts), expected) > 5 * TOLERANCE

    def test_missing_reverse_flag_is_noticed(
        self,
        reference: tuple[list[ObjectPrompt], Results],
        tiny: Sam2,
        chest: NDArray[np.uint8],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        original, joint_memory = Sam2.track, follow_memory.joint_memory

        def forward_only(self: Sam2, *args: Any, **kwargs: Any) -> Any:
            return original(self, *args, **(kwargs | {"reverse": False}))

        def in_float32(*args: Any) -> Memory:
            # Looking the wrong way Meta's code finds no pointer, and then refuses bfloat16.
            memory = joint_memory(*args)
            for entries in memory.values():
                for entry in entries.values():
                    if entry["maskmem_features"] is not None:
                        entry["maskmem_features"] = entry["maskmem_features"].float()
            return memory

        monkeypatch.setattr(Sam2, "track", forward_only)
        monkeypatch.setattr(follow_memory, "joint_memory", in_float32)
        prompts, expected = reference
        assert worst(our_results(tiny, chest, prompts), expected) > 5 * TOLERANCE

    def test_a_shorter_reach_is_noticed(
        self,
        reference: tuple[list[ObjectPrompt], Results],
        tiny: Sam2,
        chest: NDArray[np.uint8],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shorter = dataclasses.replace(tiny.memory_reach, pointers=tiny.memory_reach.pointers - 1)
        monkeypatch.setattr(Sam2, "memory_reach", property(lambda self: shorter))
        prompts, expected = reference
        assert worst(our_results(tiny, chest, prompts), expected) > TOLERANCE
