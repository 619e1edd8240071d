"""Which slices a sheet shows, and what is drawn on them."""

import numpy as np
import pytest

from medsam2_ft.object_prompts import ObjectPrompt, SlicePrompt
from medsam2_ft.overlays import RED, WHITE, color_of
from medsam2_ft.segmenting.overlay import Scene, draw_sheet, film, sheet_slices
from medsam2_ft.types import Geometry, LabelVolume

SHAPE = (30, 20, 40)


def scene(axis: int = 0, *, is_video: bool = False) -> Scene:
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:25, 8:16, 4:20] = 2
    hw = tuple(n for i, n in enumerate(SHAPE) if i != axis)
    box = np.array([1, 1, hw[1] - 2, hw[0] - 2], np.float32)
    points = np.array([[5, 5], [9, 9]], np.float32)
    part = SlicePrompt(3, box, points, np.array([1, 0], np.int32))
    mask = np.zeros(hw, bool)
    mask[2:6, 2:6] = True
    prompts = [
        ObjectPrompt(2, (part,), (0, SHAPE[axis] - 1)),
        ObjectPrompt(7, (SlicePrompt(9, mask=mask),), (0, SHAPE[axis] - 1)),
    ]
    return Scene(
        np.full(SHAPE, 90, np.uint8),
        LabelVolume((labels,), {}, Geometry((3.0, 1.0, 0.5))),
        prompts, {2: "liver"}, axis, is_video, "a case",
    )  # fmt: skip


def test_prompted_slices_come_first() -> None:
    assert sheet_slices(scene(), 2) == [3, 9]
    shown = sheet_slices(scene(), 6)
    assert {3, 9} <= set(shown)
    assert len(shown) == 6
    assert set(shown) - {3} <= set(range(5, 25))  # the rest show the object
    assert shown == sorted(shown)
    assert sheet_slices(scene(), 1) == [9]


@pytest.mark.parametrize(("axis", "aspect"), [(0, 2.0), (1, 6.0), (2, 3.0)])
def test_a_panel_of_every_axis(axis: int, aspect: float) -> None:
    drawn = scene(axis)
    panel = drawn.panel(9)
    assert panel.pixel_aspect == aspect
    assert panel.caption == "slice 9 - prompted"
    masks = {layer.color: layer.mask for layer in panel.masks}
    assert np.array_equal(masks[color_of(0)], np.take(drawn.labels.maps[0], 9, axis) == 2)
    assert masks[WHITE].sum() == 16
    box, on, off = drawn.panel(3).boxes
    assert box.color == color_of(0)
    assert (on.color, off.color) == (WHITE, RED)
    assert np.allclose(on.box_xyxy.reshape(2, 2).mean(axis=0), (5, 5))


def test_a_sheet_and_a_film() -> None:
    sheet = draw_sheet(scene())
    assert (86, 180, 233) in {tuple(c) for c in sheet.reshape(-1, 3).tolist()}
    plain, of_video = list(film(scene())), list(film(scene(is_video=True)))
    assert len(plain) == len(of_video) == 30
    assert plain[0].shape[0] > of_video[0].shape[0]  # the line with the slice's number
    assert {picture.shape for picture in of_video} == {(384, 384, 3)}  # 20 x 2 by 40
