"""One call for scripts: ``/segment_image``, ``/segment_volume`` and ``/track_video``."""

import json
import secrets
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gradio as gr

from medsam2_ft.io import write_labels
from medsam2_ft.serve.jobs import Payload
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.routes.stateless import Found, as_nifti, start
from medsam2_ft.serve.ui.desk import USUAL_RATE, Desk, kindly, wait
from medsam2_ft.serve.ui.downloads import film, masks_zip
from medsam2_ft.serve.ui.files import check_tab
from medsam2_ft.serve.ui.layout import Kind
from medsam2_ft.serve.ui.local_file import local_file
from medsam2_ft.serve.uploads import safe_suffix

Write = Callable[[Found, Path], Payload]
_ABOUT: Final = "prompts is the JSON of POST /api/v1/segment/volume (docs/protocol.md). "


def add(desk: Desk) -> None:
    """Adds the calls to the page, without anything to see."""
    with gr.Column(visible=False):
        file = local_file(label="file")
        prompts = gr.JSON(label="prompts")
        _add(desk, "image", "segment_image", _picture, [file, prompts], ["mask.png"])
        _add(desk, "volume", "segment_volume", as_nifti, [file, prompts], ["mask.nii.gz"])
        _add(desk, "video", "track_video", _video, [file, prompts], ["overlay.mp4", "masks.zip"])


def _add(
    desk: Desk, kind: Kind, name: str, write: Write, inputs: list[Any], results: list[str]
) -> None:
    def segment(file: str | None, prompts: Any) -> Any:
        with kindly():
            if file is None:
                raise Problem(422, "There is no file.", "Upload one.")
            path = Path(file)
            try:
                check_tab(kind, safe_suffix(path.name))
                with path.open("rb") as content:
                    text = prompts if isinstance(prompts, str) else json.dumps(prompts)
                    job = start(desk.context, content, path.name, text, write)
            finally:
                path.unlink(missing_ok=True)
            made = _unpacked(wait(job), desk.folder, results)
            return made[0] if len(made) == 1 else made

    outputs = [gr.File(label=result) for result in results]
    gr.Button(name).click(
        segment, inputs, outputs, api_name=name,
        api_description=f"{_ABOUT}Gives {' and '.join(results)}.",
    )  # fmt: skip


def _unpacked(payload: Payload, root: Path, names: list[str]) -> list[str]:
    """Puts the files of an answer where they can be downloaded, under an unguessable name."""
    folder = root / f"answer-{secrets.token_urlsafe(16)}"
    folder.mkdir(mode=0o700)
    path = folder / payload.name
    path.write_bytes(payload.content)
    if payload.name in names:
        return [str(path)]
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    path.unlink()
    return [str(folder / name) for name in names]


def _picture(found: Found, folder: Path) -> Payload:
    if found.gray.shape[0] != 1:
        raise Problem(422, "The file has several slices.", "Use /segment_volume.")
    write_labels(folder / "mask.png", found.labels)
    return Payload((folder / "mask.png").read_bytes(), "mask.png")


def _video(found: Found, folder: Path) -> Payload:
    rate = found.rate or USUAL_RATE
    maps, ids = found.labels.maps, found.ids
    parts = [
        film(folder / "overlay.mp4", found.gray, maps, ids, {}, rate),
        masks_zip(folder / "masks.zip", maps[0]),
    ]
    with zipfile.ZipFile(folder / "answer.zip", "w", zipfile.ZIP_STORED) as archive:
        for part in parts:
            archive.write(part, part.name)
    return Payload((folder / "answer.zip").read_bytes(), "answer.zip")
