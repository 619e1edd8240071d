"""Opening, windows and models, and taking results."""

from pathlib import Path
from typing import Any

import gradio as gr

from medsam2_ft.io import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.results import accept
from medsam2_ft.serve.schemas import Accept, NewSession
from medsam2_ft.serve.sessions import Held
from medsam2_ft.serve.ui import downloads, picture, solid
from medsam2_ft.serve.ui.desk import Seat, kindly
from medsam2_ft.serve.ui.tab import Tab, Updates, checked, grid
from medsam2_ft.serve.ui.windows import OWN, Number, chosen
from medsam2_ft.serve.uploads import safe_suffix


class FileActions:
    """Handlers of a tab that begin or end with a file.

    Args:
        tab: What it shows.
    """

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        self.desk = tab.desk
        self.parts = tab.parts

    def open(
        self,
        seat: Seat | None,
        file: str | None,
        model: str | None,
        modality: str,
        window: str,
        level: Number,
        width: Number,
        rate: Number,
        request: gr.Request,
    ) -> Updates:
        """Opens an uploaded file; what was open before is released."""
        with kindly():
            if file is None:
                raise Problem(409, "No file is chosen.", "Choose one first.")
            path = Path(file)
            try:
                check_tab(self.parts.kind, safe_suffix(path.name))
                asked = self._asked(model, modality, window, level, width)
                self.desk.release(seat)
                seat = self.desk.open(path, asked, float(rate or 0))
                self.desk.seated(request.session_hash, self.parts.kind, seat)
            finally:
                path.unlink(missing_ok=True)
            held = self.desk.held(seat)
            if self.parts.kind == "image" and held.ready().shape[0] != 1:
                self.desk.release(seat)
                raise Problem(422, "The file has several slices.", "Open it in the tab Volume.")
            names = picture.axis_names(grid(held))
            return {
                self.parts.seat: seat,
                self.parts.axis: gr.Radio(
                    choices=[(name, axis) for axis, name in enumerate(names)], value=0
                ),
                self.parts.name: "",
                self.parts.progress: "",
                **self.tab.offered(seat, 1),
                **self.tab.hidden_results(),
                **self.tab.changed(seat, 0, held.ready().shape[0] // 2, 1),
                **self.tab.turned(seat, 0, 1),
            }

    def close(self, seat: Seat | None) -> Updates:
        """Releases the session when the person takes the file away."""
        self.desk.release(seat)
        return {
            self.parts.seat: None,
            self.parts.canvas: None,
            self.parts.table: "",
            self.parts.status: "",
            self.parts.progress: "",
            **self.tab.hidden_results(),
        }

    def reopen(
        self,
        seat: Seat | None,
        model: str | None,
        modality: str,
        window: str,
        level: Number,
        width: Number,
        axis: int,
        index: Number,
        object_id: int,
    ) -> Updates:
        """Applies another window or model to the open file; masks stay."""
        if seat is None or (window == OWN and (level is None or width is None)):
            return {self.parts.progress: ""}
        with kindly():
            self.desk.reopen(seat, self._asked(model, modality, window, level, width))
            return self.tab.changed(seat, axis, index, object_id)

    def save(self, seat: Seat | None, format: str) -> Updates:
        """Makes the file that is downloaded."""
        with kindly():

            def work(held: Held) -> Path:
                assert seat is not None
                folder = self.desk.new_folder(seat)
                return downloads.save(held, format, folder, dict(seat.names), seat.rate)

            path = str(self.desk.file_work(seat, "save", work))
            is_film = format == downloads.FILM
            return {
                self.parts.result: gr.File(path, visible=True),
                self.parts.film: gr.Video(path if is_film else None, visible=is_film),
            }

    def accept(self, seat: Seat | None) -> Updates:
        """Saves image and masks as a training case."""
        with kindly():
            names = checked(Accept, names=dict(seat.names) if seat else {}).names
            folder = self.desk.context.settings.accept_dir
            said = self.desk.file_work(seat, "accept", lambda held: accept(held, folder, names))
            objects = ", ".join(str(object_id) for object_id in said["objects"])
            line = f"Accepted as {said['case']}.npz (objects {objects}): train.py fit takes it."
            gr.Info(line)
            return {self.parts.status: f"**{line}**"}

    def solid(self, seat: Seat | None) -> dict[str, Any]:
        """Makes the 3D picture."""
        with kindly():
            return self.desk.file_work(
                seat, "solid", lambda held: solid.scene(held.ready(), held.geometry, held.folder)
            )

    def keep_alive(self, seat: Seat | None) -> Any:
        """Keeps the session of an open tab; says when it has ended."""
        if seat is None:
            return gr.skip()
        try:
            self.desk.context.sessions.get(seat.session_id, seat.lease, heartbeat=True)
        except Problem:
            name = self.parts.kind.capitalize()
            gr.Warning(f"{name}: the session has ended. Open the file again.")
            return None
        return gr.skip()  # a file that is being opened must not be overwritten by an older seat

    def _asked(
        self, model: str | None, modality: str, window: str, level: Number, width: Number
    ) -> NewSession:
        fields = chosen(modality, window, level, width)
        return checked(NewSession, kind=self.parts.kind, model=model or None, **fields)


def check_tab(kind: str, suffix: str) -> None:
    """Refuses files that belong into another tab.

    Raises:
        Problem: 422.
    """
    video = suffix in VIDEO_SUFFIXES
    if kind != "video" and video:
        raise Problem(422, "This is a video.", "Open it in the tab Video.")
    if kind == "video" and not video and suffix not in (".zip", ".gif", ".npz"):
        raise Problem(422, "This is no video.", "Open it in the tab Image or Volume.")
    if kind == "volume" and suffix in PICTURE_SUFFIXES and suffix not in (".tif", ".tiff"):
        raise Problem(422, "This is a picture.", "Open it in the tab Image.")
