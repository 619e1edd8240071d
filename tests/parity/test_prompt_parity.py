"""Points, masks, several prompted slices and corrections against Meta's predictors."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from medsam2_ft.object_prompts import ObjectPrompt, SlicePrompt
from medsam2_ft.propagate import FrameMasks, propagate
from medsam2_ft.resize import to_input
from medsam2_ft.sam2_adapter import Sam2, image_predictor, video_predictor
from medsam2_ft.tracker import Tracker

TOLERANCE = 1e-5
BOX = np.array([12, 30, 45, 90], np.float32)
OTHER_BOX = np.array([55, 25, 90, 95], np.float32)
pytestmark = pytest.mark.filterwarnings("ignore:cannot import name '_C':UserWarning")
Results = dict[tuple[int, int], torch.Tensor]


def points(frame: int, *entries: tuple[int, int, int], box: Any = None) -> SlicePrompt:
    """A prompt of points, each as x, y, label."""
    array = np.array(entries, np.float32).reshape(-1, 3)
    return SlicePrompt(frame, box, array[:, :2].copy(), array[:, 2].astype(np.int32))


def drawn(frame: int, shape: tuple[int, int]) -> SlicePrompt:
    rows, columns = np.indices(shape)
    return SlicePrompt(frame, mask=(rows - 60) ** 2 + (columns - 40) ** 2 < 23**2)


class Meta:
    """Meta's video predictor on our normalised frames; corrected frames stay references."""

    def __init__(self, model: Sam2, frames: NDArray[np.uint8], folder: Path) -> None:
        self.predictor = video_predictor(model)
        self.predictor.add_all_frames_to_correct_as_cond = True
        Image.fromarray(frames[0]).convert("RGB").save(folder / "0.jpg")
        self.state: dict[str, Any] = self.predictor.init_state(str(folder))
        self.state["images"] = to_input(torch.from_numpy(frames), model.image_size)
        self.state["num_frames"] = len(frames)
        self.state["video_height"], self.state["video_width"] = frames.shape[1:3]
        self.state["cached_features"] = {}

    def prompt(self, object_id: int, prompt: SlicePrompt) -> torch.Tensor:
        if prompt.mask is not None:
            _, ids, logits = self.predictor.add_new_mask(
                self.state, prompt.frame, object_id, prompt.mask
            )
        else:
            _, ids, logits = self.predictor.add_new_points_or_box(
                self.state,
                prompt.frame,
                object_id,
                points=prompt.points_xy if len(prompt.points_xy) else None,
                labels=prompt.point_labels if len(prompt.points_xy) else None,
                box=prompt.box_xyxy,
            )
        return logits[ids.index(object_id), 0].clone()  # type: ignore[no-any-return]

    def sweep(self, start: int | None = None, *, reverse: bool = False) -> Results:
        return {
            (object_id, frame): mask[0].clone()
            for frame, ids, logits in self.predictor.propagate_in_video(
                self.state, start_frame_idx=start, reverse=reverse
            )
            for object_id, mask in zip(ids, logits, strict=True)
        }


def collected(sweep: Any) -> Results:
    results: Results = {}
    for masks in sweep:
        assert isinstance(masks, FrameMasks)
        results |= {
            (i, masks.frame): m for i, m in zip(masks.object_ids, masks.logits, strict=True)
        }
    return results


def worst(actual: Results, expected: Results) -> float:
    assert actual.keys() == expected.keys()
    everything = torch.stack(list(expected.values()))
    span = everything.max() - everything.min()
    return max(float((actual[key] - expected[key]).abs().max() / span) for key in expected)


@pytest.fixture(scope="module")
def tiny(random_model: Callable[..., Sam2]) -> Sam2:
    return random_model("tiny_test", 64, seed=3)


PROMPTS: dict[str, Callable[[tuple[int, int]], Sequence[SlicePrompt]]] = {
    "one click": lambda hw: [points(15, (30, 60, 1))],
    "clicks on and beside": lambda hw: [points(15, (30, 60, 1), (70, 20, 0), (35, 64, 1))],
    "box and click": lambda hw: [points(15, (20, 40, 0), box=BOX)],
    "mask": lambda hw: [drawn(15, hw)],
    "two boxes": lambda hw: [SlicePrompt(10, BOX), SlicePrompt(22, OTHER_BOX)],
    "box, mask and clicks": lambda hw: [
        SlicePrompt(12, BOX),
        drawn(3, hw),
        points(25, (30, 60, 1), (10, 20, 0)),
    ],
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompted_slices_equal_the_video_predictor(
    name: str,
    tiny: Sam2,
    chest: NDArray[np.uint8],
    tmp_path: Path,
    assert_telling: Callable[[torch.Tensor], None],
) -> None:
    slices = tuple(PROMPTS[name](chest.shape[1:]))
    start = min(prompt.frame for prompt in slices)
    expected: Results = {}
    for reverse in (False, True):
        meta = Meta(tiny, chest, tmp_path)
        for prompt in slices:
            meta.prompt(7, prompt)
        expected |= meta.sweep(start, reverse=reverse)
    assert_telling(torch.stack([logits.clamp(-100, 100) for logits in expected.values()]))
    prompts = [ObjectPrompt(7, slices, (0, len(chest) - 1))]
    ours = collected(propagate(tiny, chest, prompts, strategy="memory"))
    assert worst(ours, expected) <= TOLERANCE


def test_objects_with_different_prompts_share_a_run(tiny: Sam2, chest: NDArray[np.uint8]) -> None:
    prompts = [
        ObjectPrompt(i, tuple(build(chest.shape[1:])), (2, 30))
        for i, build in enumerate(PROMPTS.values(), start=1)
    ]
    together = collected(propagate(tiny, chest, prompts, strategy="memory"))
    alone = [collected(propagate(tiny, chest, [prompt], strategy="memory")) for prompt in prompts]
    expected = {key: logits for results in alone for key, logits in results.items()}
    assert worst(together, expected) <= TOLERANCE


@pytest.mark.parametrize("objects", [1, 2])
def test_corrections_equal_the_video_predictor(
    objects: int,
    tiny: Sam2,
    chest: NDArray[np.uint8],
    tmp_path: Path,
    assert_telling: Callable[[torch.Tensor], None],
) -> None:
    """Prompt, propagate, correct later slices, propagate both ways, correct once more."""
    meta = Meta(tiny, chest, tmp_path)
    tracker = Tracker(tiny, chest, strategy="memory")

    def both(object_id: int, prompt: SlicePrompt) -> None:
        ours, expected = tracker.prompt(object_id, prompt), meta.prompt(object_id, prompt)
        assert worst({(0, 0): ours}, {(0, 0): expected}) <= TOLERANCE

    def sweep(start: int, reverse: bool) -> Results:
        expected = meta.sweep(start, reverse=reverse)
        ours = collected(tracker.propagate(start=start, reverse=reverse))
        assert worst(ours, expected) <= TOLERANCE
        return expected

    both(1, SlicePrompt(8, BOX))
    if objects == 2:
        both(2, SlicePrompt(8, OTHER_BOX))
    first = sweep(8, reverse=False)
    assert_telling(torch.stack(list(first.values())))
    both(1, points(20, (30, 60, 1), (80, 20, 0)))
    both(1, points(20, (30, 60, 1), (80, 20, 0), (40, 40, 1)))  # before the next sweep
    both(1, drawn(27, chest.shape[1:]))
    second = sweep(8, reverse=False)
    assert worst(second, first) > 100 * TOLERANCE  # the corrections change other slices
    sweep(20, reverse=True)
    both(objects, points(5, (20, 70, 0), box=BOX))
    sweep(5, reverse=False)


def test_a_correction_without_memory_or_previous_mask_is_noticed(
    tiny: Sam2, chest: NDArray[np.uint8]
) -> None:
    tracker = Tracker(tiny, chest, strategy="memory")
    tracker.prompt(1, SlicePrompt(8, BOX))
    list(tracker.propagate())
    correction = points(20, (30, 60, 1), (80, 20, 0))
    corrected = tracker.prompt(1, correction)
    afresh = Tracker(tiny, chest, strategy="memory").prompt(1, correction)
    assert worst({(0, 0): corrected}, {(0, 0): afresh}) > 100 * TOLERANCE


@pytest.mark.parametrize(
    "name", ["one click", "clicks on and beside", "box and click", "two boxes"]
)
def test_box_strategy_prompts_as_the_image_predictor(
    name: str, tiny: Sam2, chest: NDArray[np.uint8]
) -> None:
    prompt = PROMPTS[name](chest.shape[1:])[0]
    correction = points(prompt.frame, (33, 62, 1), (70, 20, 0))
    tracker = Tracker(tiny, chest, strategy="box")
    predictor = image_predictor(tiny)
    predictor.set_image(np.repeat(chest[prompt.frame][..., None], 3, axis=-1))

    def meta(entry: SlicePrompt, mask_input: Any) -> tuple[torch.Tensor, Any]:
        logits, iou, low = predictor.predict(
            point_coords=entry.points_xy if len(entry.points_xy) else None,
            point_labels=entry.point_labels if len(entry.points_xy) else None,
            box=entry.box_xyxy,
            mask_input=mask_input,
            multimask_output=entry.point_count == 1,
            return_logits=True,
        )
        best = int(np.argmax(iou))
        return torch.from_numpy(logits[best]), low[best : best + 1]

    expected, low = meta(prompt, None)
    assert worst({(0, 0): tracker.prompt(1, prompt)}, {(0, 0): expected}) <= TOLERANCE
    corrected, _ = meta(correction, low)
    assert worst({(0, 0): tracker.prompt(1, correction)}, {(0, 0): corrected}) <= TOLERANCE
    afresh, _ = meta(correction, None)
    assert worst({(0, 0): afresh}, {(0, 0): corrected}) > 100 * TOLERANCE
