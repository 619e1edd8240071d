"""The paper's way to prompt SAM2's video predictor: with the image predictor's mask."""

from collections.abc import Callable, Iterator, Sequence

import torch

from medsam2_ft.follow_box import NO_OBJECT_LOGIT
from medsam2_ft.object_prompts import ObjectPrompt, SlicePrompt
from medsam2_ft.propagate import FrameMasks

Follow = Callable[[Sequence[ObjectPrompt]], Iterator[FrameMasks]]


def follow_drawn(
    prompts: Sequence[ObjectPrompt], hw: tuple[int, int], predict: Follow, follow: Follow
) -> Iterator[FrameMasks]:
    """Turns boxes and points into masks, and follows those.

    Args:
        prompts: Objects that passed ``check_prompts``.
        hw: Height and width of the frames.
        predict: Segments objects on their prompted frames, as the image predictor does.
        follow: Follows objects that are prompted by masks.

    Yields:
        What ``follow`` gives; then, for objects whose masks all came out empty, the frames of
        their ranges without an object. Nothing if ``predict`` was cancelled.
    """
    parts = [(p.object_id, part) for p in prompts for part in p.slices if part.mask is None]
    alone = [ObjectPrompt(i, (part,), (part.frame,) * 2) for i, (_, part) in enumerate(parts)]
    drawn: dict[tuple[int, int], SlicePrompt] = {}
    for found in predict(alone):
        for i, mask in zip(found.object_ids, (found.logits > 0).cpu().numpy(), strict=True):
            drawn[parts[i][0], found.frame] = SlicePrompt(found.frame, mask=mask)
    if len(drawn) < len(parts):
        return
    present, absent = [], []
    for prompt in prompts:
        slices = [drawn.get((prompt.object_id, part.frame), part) for part in prompt.slices]
        seen = tuple(part for part in slices if part.mask is not None and part.mask.any())
        if seen:
            present.append(ObjectPrompt(prompt.object_id, seen, prompt.z_range))
        else:
            absent.append(prompt)
    yield from follow(present)
    nothing = torch.full((1, *hw), NO_OBJECT_LOGIT)
    for prompt in absent:
        for frame in range(prompt.z_range[0], prompt.z_range[1] + 1):
            yield FrameMasks(frame, (prompt.object_id,), nothing)
