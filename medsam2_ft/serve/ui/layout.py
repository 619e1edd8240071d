"""The components of the tabs Image, Volume and Video: what is where, not what it does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import gradio as gr

from medsam2_ft.serve.ui.canvas import prompt_canvas, volume_view
from medsam2_ft.serve.ui.local_file import local_file
from medsam2_ft.serve.ui.windows import AUTOMATIC, modality_choices, window_choices

Kind = Literal["image", "volume", "video"]

_OPEN: Final = {
    "image": "**1. Open a picture**: PNG, JPEG, TIFF, BMP, or one DICOM file",
    "volume": "**1. Open a volume**: .nii, .nii.gz, .nrrd, .mha, .npz, or a zip of a DICOM series",
    "video": "**1. Open a video**: MP4, AVI, WebM, MOV, MKV, or a zip of frames",
}
_FORMATS: Final = {
    "image": ["png", "npz"],
    "volume": ["nii.gz", "nrrd", "npz"],
    "video": ["masks.zip", "overlay.mp4", "npz"],
}
_SLICE: Final = {"image": "Picture", "volume": "Slice", "video": "Frame"}


@dataclass(frozen=True, eq=False)
class Parts:
    """The components of one tab."""

    kind: Kind
    seat: gr.State
    file: gr.File
    model: gr.Dropdown
    modality: gr.Dropdown
    window: gr.Dropdown
    level: gr.Number
    width: gr.Number
    rate: gr.Number
    status: gr.Markdown
    axis: gr.Radio
    index: gr.Slider
    canvas: gr.HTML
    box: Sequence[gr.Number]
    use_box: gr.Button
    point: Sequence[gr.Number]
    use_plus: gr.Button
    use_minus: gr.Button
    object_id: gr.Radio
    new_object: gr.Button
    remove_object: gr.Button
    name: gr.Textbox
    clear_slice: gr.Button
    undo: gr.Button
    redo: gr.Button
    first: gr.Slider
    last: gr.Slider
    direction: gr.Radio
    strategy: gr.Radio
    propagate: gr.Button
    cancel: gr.Button
    progress: gr.HTML
    table: gr.HTML
    format: gr.Radio
    save: gr.Button
    result: gr.File
    film: gr.Video
    accept: gr.Button
    show_solid: gr.Button
    solid: gr.HTML


def build(kind: Kind, seat: gr.State, *, accepts: bool) -> Parts:
    """Makes the components of a tab, within the tab's context.

    Args:
        kind: Of the tab.
        seat: Its state.
        accepts: Whether results can be saved as training cases.
    """
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            opening = _opening(kind)
            objects = _objects(kind)
            spreading = _spreading(kind)
        with gr.Column(scale=4, min_width=480):
            picture = _picture(kind)
            saving = _saving(kind, accepts=accepts)
    return Parts(kind=kind, seat=seat, **opening, **objects, **spreading, **picture, **saving)


def _opening(kind: Kind) -> dict[str, Any]:
    gr.Markdown(_OPEN[kind])
    file = local_file(label="File", elem_id=f"{kind}-file", height=120)
    with gr.Accordion("Model and intensities", open=kind == "volume"):
        model = gr.Dropdown(
            [], label="Model", allow_custom_value=True, interactive=True, elem_id=f"{kind}-model"
        )
        modality = gr.Dropdown(
            modality_choices(),
            value=AUTOMATIC,
            label="Modality",
            interactive=True,
            elem_id=f"{kind}-modality",
        )
        window = gr.Dropdown(
            window_choices(),
            value=AUTOMATIC,
            label="Window",
            interactive=True,
            elem_id=f"{kind}-window",
        )
        with gr.Row(visible=False) as own:
            level = gr.Number(label="Level", min_width=100)
            width = gr.Number(label="Width", min_width=100)
        window.change(
            lambda value: gr.Row(visible=value == "own"),
            window, own, api_visibility="private", queue=False, show_progress="hidden",
        )  # fmt: skip
        rate = gr.Number(
            0, label="Frames per second to use (0: all), before opening", minimum=0,
            visible=kind == "video",
        )  # fmt: skip
    return {"file": file, "model": model, "modality": modality, "window": window, "level": level,
            "width": width, "rate": rate}  # fmt: skip


def _objects(kind: Kind) -> dict[str, Any]:
    gr.Markdown("**2. Draw a box around the object**, or click points (right)")
    object_id = gr.Radio([("1", 1)], value=1, label="Object", elem_id=f"{kind}-object")
    with gr.Row():
        new_object = gr.Button("New object", size="sm", min_width=90)
        remove_object = gr.Button("Remove object", size="sm", min_width=90)
    name = gr.Textbox(label="Name of the object", max_length=100, elem_id=f"{kind}-name")
    with gr.Row():
        undo = gr.Button("Undo", size="sm", min_width=60, interactive=False)
        redo = gr.Button("Redo", size="sm", min_width=60, interactive=False)
        word = _SLICE[kind].lower()
        clear_slice = gr.Button(f"Clear {word}", size="sm", min_width=90)
    return {"object_id": object_id, "new_object": new_object, "remove_object": remove_object,
            "name": name, "undo": undo, "redo": redo, "clear_slice": clear_slice}  # fmt: skip


def _spreading(kind: Kind) -> dict[str, Any]:
    with gr.Column(visible=kind != "image"):
        word = _SLICE[kind].lower()
        gr.Markdown(f"**3. Propagate**; correct any {word}, then propagate again")
        with gr.Row():
            first = gr.Slider(0, 1, value=0, step=1, label="From", min_width=120)
            last = gr.Slider(0, 1, value=1, step=1, label="To", min_width=120)
        with gr.Accordion("More", open=False):
            direction = gr.Radio(
                [("both ways", "both"), ("rising", "forward"), ("falling", "backward")],
                value="both", label="Direction",
            )  # fmt: skip
            strategy = gr.Radio(
                [("the model's own", "auto"), ("box", "box"), ("memory", "memory")],
                value="auto", label="Strategy",
            )  # fmt: skip
        with gr.Row():
            propagate = gr.Button("Propagate", variant="primary", elem_id=f"{kind}-propagate")
            cancel = gr.Button(
                "Cancel", variant="stop", interactive=False, elem_id=f"{kind}-cancel"
            )
        progress = gr.HTML(elem_id=f"{kind}-progress")
    return {"first": first, "last": last, "direction": direction, "strategy": strategy,
            "propagate": propagate, "cancel": cancel, "progress": progress}  # fmt: skip


def _picture(kind: Kind) -> dict[str, Any]:
    status = gr.Markdown("", elem_id=f"{kind}-status")
    with gr.Row(visible=kind == "volume"):
        axis = gr.Radio(
            [("slices", 0), ("rows", 1), ("columns", 2)], value=0, label="View along",
            elem_id=f"{kind}-axis",
        )  # fmt: skip
    index = gr.Slider(
        0, 1, value=0, step=1, label=_SLICE[kind], elem_id=f"{kind}-index", visible=kind != "image"
    )
    canvas = prompt_canvas(elem_id=f"{kind}-canvas")
    with gr.Accordion("Coordinates instead of the mouse", open=False):
        with gr.Row():
            box = [
                gr.Number(label=side, precision=0, min_width=60, elem_id=f"{kind}-{side}")
                for side in ("x0", "y0", "x1", "y1")
            ]
            use_box = gr.Button("Use box", size="sm", min_width=80)
        with gr.Row():
            point = [gr.Number(label=side, precision=0, min_width=60) for side in ("x", "y")]
            use_plus = gr.Button("+ point", size="sm", min_width=80)
            use_minus = gr.Button("\N{MINUS SIGN} point", size="sm", min_width=80)
    table = gr.HTML(elem_id=f"{kind}-table")
    return {"status": status, "axis": axis, "index": index, "canvas": canvas, "box": box,
            "use_box": use_box, "point": point, "use_plus": use_plus, "use_minus": use_minus,
            "table": table}  # fmt: skip


def _saving(kind: Kind, *, accepts: bool) -> dict[str, Any]:
    gr.Markdown(f"**{3 if kind == 'image' else 4}. Take the result**")
    with gr.Row():
        format = gr.Radio(_FORMATS[kind], value=_FORMATS[kind][0], label="Format", min_width=160)
        save = gr.Button("Make file", elem_id=f"{kind}-save", min_width=100)
        accept = gr.Button(
            "Accept as training case", visible=accepts, elem_id=f"{kind}-accept", min_width=140
        )
    result = gr.File(label="Download", interactive=False, elem_id=f"{kind}-result", visible=False)
    film = gr.Video(
        label="Overlay", height=400, interactive=False, elem_id=f"{kind}-film", visible=False
    )
    with gr.Accordion("In 3D", open=False, visible=kind == "volume", elem_id=f"{kind}-3d"):
        show_solid = gr.Button("Show in 3D", elem_id=f"{kind}-show-solid")
        solid = volume_view(elem_id=f"{kind}-solid")
    return {"format": format, "save": save, "result": result, "film": film, "accept": accept,
            "show_solid": show_solid, "solid": solid}  # fmt: skip
