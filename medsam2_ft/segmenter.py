"""The one inference API: a volume, image or video and prompts in, labels on its own grid out.

Command line, benchmark, validation and server all come here.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medsam2_ft.drawn_prompts import follow_drawn
from medsam2_ft.errors import UserError
from medsam2_ft.intensity import apply_rule
from medsam2_ft.io.checks import check_image_shape
from medsam2_ft.label_canvas import LabelCanvas, Overlap
from medsam2_ft.models import load_model, resolve_device, resolve_dtype, rule_for
from medsam2_ft.object_prompts import ObjectPrompt, check_prompts, clip_boxes
from medsam2_ft.propagate import FrameMasks, Strategy, propagate, propagate_boxes
from medsam2_ft.sam2_adapter import Sam2
from medsam2_ft.slice_model import SliceModel
from medsam2_ft.types import Case, Geometry, IntensityRule, LabelVolume, Volume
from medsam2_ft.volume_prompts import PromptProtocol, frames_along

__all__ = ["Segmenter", "Strategy"]

Progress = Callable[[int, int], None]
"""Called with the number of masks that are done, and of all: one per object and frame."""


class Segmenter:
    """Segments images, volumes and videos with one model, whose mode is left as it was.

    Args:
        model: Any SAM2, or a baseline, which knows boxes on slices only.
        name: What to call it in tables.
        strategy: How it is propagated where a call does not say.
        dtype: Autocast type; float32 switches autocast off.
        rules: Intensity rules that the model was trained with.
        modalities: Modalities that it was trained on.
        sha256: Of the weights' file, where there is one.

    Attributes:
        strategies: The strategies that the model can do.
    """

    def __init__(
        self,
        model: Sam2 | SliceModel,
        *,
        name: str = "model",
        strategy: Strategy = "box",
        dtype: torch.dtype = torch.float32,
        rules: Sequence[IntensityRule] = (),
        modalities: Sequence[str] = (),
        sha256: str | None = None,
    ) -> None:
        self.model = model
        self.name = name
        self.strategies: tuple[Strategy, ...] = ("box",)
        if isinstance(model, Sam2):
            self.strategies = ("box", "memory")
        self.strategy = self._possible(strategy)
        self.dtype = dtype
        self.rules = tuple(rules)
        self.modalities = tuple(modalities)
        self.sha256 = sha256

    @classmethod
    def from_checkpoint(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "auto",
        image_size: int | None = None,
        strategy: Strategy | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    ) -> "Segmenter":
        """Loads a model by name or from a file, see ``models.load_model``.

        Args:
            source: ``sam2.1_hiera_tiny`` (looked up in ``checkpoints``, else downloaded),
                ``random:sam2.1_hiera_tiny`` (said loudly), an official ``.pt``, an export ``.pt``
                with its sidecar, a training ``.ckpt``, or a baseline such as ``medsam_vit_b``.
            device: ``auto`` is CUDA, else MPS, else CPU.
            image_size: Side of the model's input; None takes the sidecar's or checkpoint's, else
                1024.
            strategy: Default of the calls; None takes what the sidecar says, ``memory`` for
                official weights (known by their sha256), else ``box``.
            dtype: ``auto`` is bfloat16 autocast on CUDA and float32 elsewhere.

        Raises:
            UserError: No such model, a damaged or wrong file, or a device that is not there.
        """
        place = resolve_device(device)
        autocast = resolve_dtype(dtype, place)
        loaded = load_model(source, device=place, image_size=image_size)
        return cls(
            loaded.model,
            name=loaded.name,
            strategy=strategy or loaded.strategy,
            dtype=autocast,
            rules=loaded.rules,
            modalities=loaded.modalities,
            sha256=loaded.sha256,
        )

    @property
    def image_size(self) -> int:
        """Side of the model's input in pixels."""
        return self.model.image_size

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    def segment(
        self,
        volume: Volume | Case,
        prompts: Sequence[ObjectPrompt],
        *,
        strategy: Strategy | None = None,
        margin_px: float = 5.0,
        protocol: PromptProtocol = "middle",
        axis: int = 0,
        overlap: Overlap = "largest_logit",
        intensity: IntensityRule | None = None,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> LabelVolume:
        """Segments prompted objects.

        Besides input (as uint8: other types are turned first, a byte per voxel) and output, peak
        memory does not grow with the number of frames.

        Args:
            volume: Image (one slice), volume or video, gray or colour.
            prompts: Objects with ids from 1 to 65535, in coordinates of the frames along ``axis``
                (``volume_prompts.frames_along``); without any, the labels are empty.
            strategy: ``box`` or ``memory``, see ``propagate``; None is the model's own, and for a
                single frame ``box``, which is Meta's image predictor.
            margin_px: ``box``: margin around the previous mask's box, in pixels of a 1024 input.
            protocol: ``middle``: prompts as they are; an empty mask leaves the last box in place.
                ``paper``: the ways of arXiv 2408.03322. With ``box`` an empty mask brings the
                first box back; with ``memory`` the image predictor's mask of the prompted slice
                is the prompt, and where that is empty, so is the object.
            axis: Axis of ``(z, y, x)`` whose slices are frames.
            overlap: ``largest_logit``: a voxel has one label. ``keep``: objects that meet go to
                further maps.
            intensity: Rule for the 0-255 values; None is ``rule_for(volume)``. A case has its
                0-255 values already.
            progress: Called at the start and after every frame of either direction, see
                ``Progress``.
            cancelled: Asked before every frame; once it says True, the labels are returned as
                they are, and a note says so.

        Returns:
            Labels on the grid of ``volume``; names come from a case. Its notes say how the image
            was turned to 0-255, and whether it was cancelled.

        Raises:
            UserError: A prompt that does not fit (wholly outside the image, for instance), an
                image of another shape, or what the model cannot do.
        """
        done = [0, 0]

        def count(now: int, total: int) -> None:
            done[:] = now, total
            if progress is not None:
                progress(now, total)

        gray, notes = self._gray(volume, intensity)
        masks = self._masks(gray, prompts, strategy, margin_px, protocol, axis, count, cancelled)
        canvas = LabelCanvas(gray.shape[:3], prompts, axis, overlap)
        for found in masks:
            canvas.draw(found.frame, found.object_ids, found.logits.cpu().numpy())
        if done[0] < done[1]:
            notes.append(f"cancelled after {done[0]} of {done[1]} masks")
        names = volume.label_names if isinstance(volume, Case) else {}
        return LabelVolume(
            tuple(canvas.maps),
            {p.object_id: names[p.object_id] for p in prompts if p.object_id in names},
            volume.geometry,
            volume.has_geometry if isinstance(volume, Volume) else volume.geometry != Geometry(),
            tuple(notes),
        )

    def masks(
        self,
        volume: Volume | Case,
        prompts: Sequence[ObjectPrompt],
        *,
        strategy: Strategy | None = None,
        margin_px: float = 5.0,
        protocol: PromptProtocol = "middle",
        axis: int = 0,
        intensity: IntensityRule | None = None,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[FrameMasks]:
        """Segments prompted objects and gives the logits of each frame as they come.

        Every frame of an object's range comes once for that object: forward from its first
        prompted frame, then backward. Ids may be any integers. The arguments and errors are those
        of ``segment``; prompts are checked before this returns.
        """
        gray, _ = self._gray(volume, intensity)
        return self._masks(gray, prompts, strategy, margin_px, protocol, axis, progress, cancelled)

    def rule_for(self, volume: Volume) -> IntensityRule:
        """Chooses the rule that turns a volume to 0-255, see ``models.rule_for``."""
        return rule_for(volume, self.rules, self.modalities)

    def to_uint8(
        self, volume: Volume | Case, intensity: IntensityRule | None = None
    ) -> NDArray[np.uint8]:
        """Returns the 0-255 values that the model sees; a case's as they are stored.

        Raises:
            UserError: An image of another shape or that is not finite, or a rule for a case.
        """
        return self._gray(volume, intensity)[0]

    def _gray(
        self, volume: Volume | Case, intensity: IntensityRule | None
    ) -> tuple[NDArray[np.uint8], list[str]]:
        """The 0-255 values, and what was done."""
        if isinstance(volume, Case):
            check_image_shape(volume.name, volume.image.shape)
            if intensity is not None:
                raise UserError(
                    f"{volume.name}: a case holds 0-255 already, so that an intensity rule cannot "
                    "apply; leave it out, or give the original volume."
                )
            return volume.image, []
        check_image_shape("the image", volume.array.shape)
        rule = intensity or self.rule_for(volume)
        return apply_rule(volume.array, rule), [f"intensities by the rule {rule.to_json()}"]

    def _masks(
        self,
        gray: NDArray[np.uint8],
        prompts: Sequence[ObjectPrompt],
        strategy: Strategy | None,
        margin_px: float,
        protocol: PromptProtocol,
        axis: int,
        progress: Progress | None,
        cancelled: Callable[[], bool] | None,
    ) -> Iterator[FrameMasks]:
        frames = frames_along(gray, axis)
        hw = (int(frames.shape[1]), int(frames.shape[2]))
        check_prompts(prompts, len(frames), hw)
        inside = [clip_boxes(prompt, hw) for prompt in prompts]
        how = self._possible(strategy or (self.strategy if len(frames) > 1 else "box"))

        def follow(asked: Sequence[ObjectPrompt], how: Strategy = how) -> Iterator[FrameMasks]:
            if isinstance(self.model, Sam2):
                run = partial(propagate, self.model, strategy=how)
            else:
                run = partial(propagate_boxes, self.model)
            return run(
                frames,
                asked,
                margin_px=margin_px,
                dtype=self.dtype,
                cancelled=cancelled,
                fallback="first" if protocol == "paper" else "last",
            )

        if protocol == "paper" and how == "memory":
            found = follow_drawn(inside, hw, partial(follow, how="box"), follow)
        else:
            found = follow(inside)
        return found if progress is None else _counted(found, prompts, progress)

    def _possible(self, strategy: Strategy) -> Strategy:
        if strategy not in self.strategies:
            raise UserError(
                f"{self.name}: cannot propagate by {strategy!r}; choose "
                f"{' or '.join(self.strategies)}."
            )
        return strategy


def _counted(
    found: Iterator[FrameMasks], prompts: Sequence[ObjectPrompt], progress: Progress
) -> Iterator[FrameMasks]:
    """Reports the masks that are done after each frame."""
    total = sum(p.z_range[1] - p.z_range[0] + 1 for p in prompts)
    done = 0
    progress(done, total)
    for masks in found:
        yield masks
        done += len(masks.object_ids)
        progress(done, total)
