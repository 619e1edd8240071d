"""One call for scripts: a file and prompts in, labels out."""

import secrets
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, no_type_check

import numpy as np
from fastapi import APIRouter, File, Form, UploadFile
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import ValidationError

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import apply_rule
from medsam2_ft.label_canvas import LabelCanvas
from medsam2_ft.serve.context import Context, Shared
from medsam2_ft.serve.jobs import Job, Payload, Urgency
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.results import as_payload
from medsam2_ft.serve.said import object_prompts
from medsam2_ft.serve.schemas import StatelessPrompts
from medsam2_ft.serve.uploads import (
    check_voxels,
    choose_rule,
    read_upload,
    safe_suffix,
    stated_rate,
)
from medsam2_ft.types import Case, LabelVolume
from medsam2_ft.volume_prompts import frames_along


@dataclass(frozen=True, eq=False)
class Found:
    """What a stateless call has segmented.

    Attributes:
        gray: The image, 0-255.
        labels: On its grid.
        ids: The objects.
        rate: Frames per second of a video that states them.
    """

    gray: NDArray[np.uint8]
    labels: LabelVolume
    ids: tuple[int, ...]
    rate: float | None


def as_nifti(found: Found, folder: Path) -> Payload:
    """Writes the label map as ``mask.nii.gz``."""
    return as_payload(found.labels, folder, "nii.gz")


def _steps(
    context: Context,
    job: Job,
    file: Path,
    model: str,
    asked: StatelessPrompts,
    write: Callable[[Found, Path], Payload],
) -> Generator[None, None, Payload]:
    """Reads, segments frame by frame so that prompts of sessions go between, and writes."""
    try:
        volume = read_upload(file)
        rate = stated_rate(file)
        check_voxels(volume.array.shape[:3], context.settings)
        yield
        loaded = context.engine.load(model)
        if loaded.segmenter is None:
            raise UserError(f"model {model} knows sessions only.")
        gray = apply_rule(volume.array, choose_rule(loaded, volume, asked.window, asked.modality))
        prompts = object_prompts(asked, len(frames_along(gray, asked.axis)))

        def progress(done: int, total: int) -> None:
            job.done, job.total = done, total

        yield
        case = Case("the image", gray, geometry=volume.geometry)
        canvas = LabelCanvas(gray.shape[:3], prompts, asked.axis, "largest_logit")
        for found in loaded.segmenter.masks(
            case,
            prompts,
            strategy=asked.strategy,
            axis=asked.axis,
            progress=progress,
            cancelled=job.cancel.is_set,
        ):
            canvas.draw(found.frame, found.object_ids, found.logits.cpu().numpy())
            yield
        labels = LabelVolume(
            tuple(canvas.maps), geometry=volume.geometry, has_geometry=volume.has_geometry
        )
        ids = tuple(prompt.object_id for prompt in prompts)
        result = Found(gray, labels, ids, rate)
        return write(result, file.parent)
    finally:
        shutil.rmtree(file.parent, ignore_errors=True)


routes = APIRouter(prefix="/segment")


@routes.post("/volume")
@no_type_check  # FastAPI hands over Starlette's UploadFile where its own is asked for
def volume(
    context: Shared,
    file: Annotated[UploadFile, File()],
    prompts: Annotated[str, Form(max_length=1 << 22)],
) -> Response:
    """Segments one file without a session."""
    return context.answer(start(context, file.file, file.filename or "", prompts))


def start(
    context: Context,
    content: IO[bytes],
    filename: str,
    prompts: str,
    write: Callable[[Found, Path], Payload] = as_nifti,
) -> Job:
    """Queues a stateless call.

    Args:
        context: Of the application.
        content: The file.
        filename: Its name, of which the suffix alone is used.
        prompts: JSON, see ``StatelessPrompts``.
        write: Makes the answer, in a folder that is then removed.

    Raises:
        Problem: The prompts do not fit, no model, no image format, or the queue is full.
    """
    try:
        asked = StatelessPrompts.model_validate_json(prompts)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Problem(422, f"prompts: {place}: {first['msg']}", "See the protocol.") from error
    model = context.model_id(asked.model)
    suffix = safe_suffix(filename)
    job = Job("segment", "stateless", lease=secrets.token_urlsafe(24))
    folder = context.sessions.root / secrets.token_hex(12)
    folder.mkdir(mode=0o700)
    try:
        path = folder / f"image{suffix}"
        with path.open("xb") as sink:
            shutil.copyfileobj(content, sink, 1 << 20)
        steps = _steps(context, job, path, model, asked, write)
        context.inference.start(job, steps, Urgency.STEP)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return job
