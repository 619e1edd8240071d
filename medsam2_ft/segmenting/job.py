"""Segments one image: read, prompt, segment, write, draw."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam2_ft.label_canvas import Overlap
from medsam2_ft.propagate import Strategy
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.segmenting.items import Image, Item, Reading, frame_rate, named, read_image
from medsam2_ft.segmenting.outputs import check_fits, write_segmentation
from medsam2_ft.segmenting.overlay import Scene, write_overlay
from medsam2_ft.segmenting.prompting import Prompts, Wanted, prompts_for
from medsam2_ft.types import LabelVolume


@dataclass(frozen=True)
class How:
    """Everything that is the same for all images of a call.

    Attributes:
        reading: How images are read.
        wanted: What is segmented.
        strategy: How masks are propagated; None is the model's own way.
        overlap: What happens where objects meet.
    """

    reading: Reading
    wanted: Wanted
    strategy: Strategy | None = None
    overlap: Overlap = "largest_logit"


@dataclass(frozen=True)
class Found:
    """What came out for one object.

    Attributes:
        id: Its label.
        name: Its name, "" where it has none.
        voxels: Number of voxels.
        first: First slice that was segmented.
        last: Last one.
    """

    id: int
    name: str
    voxels: int
    first: int
    last: int


@dataclass(frozen=True)
class Outcome:
    """What was done with one image.

    Attributes:
        objects: What was found.
        notes: What readers and model remarked.
        origin: Where the prompts came from.
        seconds: How long it took.
    """

    objects: tuple[Found, ...]
    notes: tuple[str, ...]
    origin: str
    seconds: float

    @property
    def summary(self) -> str:
        """One line."""
        empty = [found.name or str(found.id) for found in self.objects if not found.voxels]
        voxels = sum(found.voxels for found in self.objects)
        count = len(self.objects)
        parts = [f"{count} object{'s' if count != 1 else ''}, {voxels} voxels", self.origin]
        if empty:
            parts.append(f"nothing found for {', '.join(empty)}")
        return "; ".join([*parts, *self.notes, f"{self.seconds:.1f} s"])


def segment_item(
    load: Callable[[], Segmenter],
    item: Item,
    how: How,
    out: Path,
    overlay: Path | None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Segments one image and writes the result; the overlay comes first, the result last.

    Args:
        load: Gives the model; called once the image has been read.
        item: The image.
        how: How.
        out: Target; its suffix decides the format.
        overlay: Picture or film to draw.
        progress: See ``Segmenter.segment``.

    Raises:
        UserError: Anything that is wrong with image, prompts or targets; then nothing is written.
    """
    started = time.monotonic()
    image = read_image(item, how.reading)
    check_fits(out, item, image)
    segmenter = load()
    strategy = how.strategy or segmenter.strategy
    prompts = prompts_for(item, image, how.wanted, strategy)
    labels = named(
        segmenter.segment(
            image.data,
            prompts.objects,
            strategy=how.strategy,
            margin_px=how.wanted.margin_px,
            protocol=how.wanted.protocol,
            axis=how.wanted.axis,
            overlap=how.overlap,
            intensity=image.rule,
            progress=progress,
        ),
        {
            prompt.object_id: prompts.names[prompt.object_id]
            for prompt in prompts.objects
            if prompt.object_id in prompts.names
        },
    )
    if overlay is not None:
        scene = _scene(segmenter, item, image, prompts, labels, how.wanted.axis)
        write_overlay(overlay, scene, frame_rate(item.source, image))
    write_segmentation(out, labels, item, segmenter.name)
    objects = tuple(_found(labels, prompts))
    notes = (*image.volume.notes, *labels.notes)
    return Outcome(objects, notes, prompts.origin, time.monotonic() - started)


def _scene(
    segmenter: Segmenter,
    item: Item,
    image: Image,
    prompts: Prompts,
    labels: LabelVolume,
    axis: int,
) -> Scene:
    return Scene(
        gray=segmenter.to_uint8(image.data, image.rule),
        labels=labels,
        prompts=prompts.objects,
        names=prompts.names,
        axis=axis,
        is_video=image.volume.is_video,
        title=f"{item.name}: {segmenter.name}, {prompts.origin}",
    )


def _found(labels: LabelVolume, prompts: Prompts) -> list[Found]:
    largest = max(prompt.object_id for prompt in prompts.objects)
    counts = np.zeros(largest + 1, np.int64)
    for label_map in labels.maps:
        for plane in label_map:  # bincount wants int64: a slice at a time
            counts += np.bincount(plane.ravel(), minlength=largest + 1)
    return [
        Found(
            prompt.object_id,
            prompts.names.get(prompt.object_id, ""),
            int(counts[prompt.object_id]),
            *prompt.z_range,
        )
        for prompt in prompts.objects
    ]
