"""Meta's SAM2VideoPredictor on frames of ours.

Meta's loader resizes with PIL; we write our own normalised frames into its state, so that only
the tracking is compared.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from medsam2_ft.propagate import ObjectPrompt
from medsam2_ft.resize import to_input
from medsam2_ft.sam2_adapter import Sam2, video_predictor

Results = dict[tuple[int, int], torch.Tensor]


def meta_results(
    model: Sam2,
    frames: NDArray[np.uint8],
    prompts: Sequence[ObjectPrompt],
    folder: Path,
    *,
    reverses: Sequence[bool] = (False, True),
    reset: bool = True,
) -> Results:
    """Logits by (object, frame).

    All prompts are boxes or masks on one frame; sweeps cover the whole volume.
    """
    predictor = video_predictor(model)
    Image.fromarray(frames[0]).convert("RGB").save(folder / "0.jpg")
    state: dict[str, Any] = predictor.init_state(str(folder))
    state["images"] = to_input(torch.from_numpy(frames), model.image_size)
    state["num_frames"] = len(frames)
    state["video_height"], state["video_width"] = frames.shape[1:3]
    state["cached_features"] = {}  # Meta has already encoded the JPEG
    start = prompts[0].frame

    def add_prompts() -> None:
        for prompt in prompts:
            (part,) = prompt.slices
            where = {"frame_idx": prompt.frame, "obj_id": prompt.object_id}
            if part.mask is not None:
                predictor.add_new_mask(state, **where, mask=part.mask)
            else:
                predictor.add_new_points_or_box(state, **where, box=part.box_xyxy)

    results: Results = {}
    add_prompts()
    for number, reverse in enumerate(reverses):
        if number and reset:
            predictor.reset_state(state)
            add_prompts()
        for frame, ids, logits in predictor.propagate_in_video(
            state, start_frame_idx=start, reverse=reverse
        ):
            results |= {(i, frame): mask[0].clone() for i, mask in zip(ids, logits, strict=True)}
    return results
