from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsam2_ft.errors import UserError
from medsam2_ft.overlays import (
    BACKGROUND,
    CAPTION_PX,
    GAP_PX,
    PALETTE,
    BoxLayer,
    MaskLayer,
    Panel,
    color_of,
    render_grid,
    render_panel,
    write_png,
)

RED, GREEN = (255, 0, 0), (0, 255, 0)


def test_image_keeps_its_aspect_ratio_below_the_caption() -> None:
    gray = np.full((50, 100), 200, np.uint8)
    rgb = render_panel(Panel(gray), side_px=64)
    assert rgb.shape == (64 + CAPTION_PX, 64, 3)
    shown = (rgb == 200).all(axis=-1)
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    assert (rows[0], rows[-1]) == (CAPTION_PX + 16, CAPTION_PX + 47)
    assert (columns[0], columns[-1]) == (0, 63)
    assert (rgb[CAPTION_PX] == BACKGROUND).all()


def test_colour_images_stay_rgb_and_large_ones_shrink() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    image[..., 0] = 250
    rgb = render_panel(Panel(image), side_px=64)
    assert (rgb[CAPTION_PX:] == (250, 0, 0)).all()


def test_masks_of_any_resolution_lie_where_they_belong() -> None:
    mask = np.zeros((16, 16), bool)
    mask[4:8, 8:12] = True  # a quarter of the image's resolution
    fill = MaskLayer(mask, RED, "fill")
    rgb = render_panel(Panel(np.zeros((64, 64), np.uint8), masks=[fill]), side_px=64)[CAPTION_PX:]
    red = rgb[..., 0] > 60
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert (rows[0], rows[-1] + 1) == pytest.approx((16, 32), abs=1)
    assert (columns[0], columns[-1] + 1) == pytest.approx((32, 48), abs=1)
    assert rgb[24, 40].tolist() == [89, 0, 0]  # translucent inside
    outline = MaskLayer(mask, RED)
    rgb = render_panel(Panel(np.zeros((64, 64), np.uint8), masks=[outline]), side_px=64)
    assert rgb[CAPTION_PX + 24, 40].tolist() == [0, 0, 0]
    assert rgb[CAPTION_PX + 16, 40, 0] > 100


def test_boxes_are_inclusive_and_clipped() -> None:
    box = BoxLayer(np.array([10, 20, 19, 29], np.float32), GREEN)
    image = np.zeros((64, 64), np.uint8)
    rgb = render_panel(Panel(image, boxes=[box]), side_px=128)[CAPTION_PX:]
    green = rgb[..., 1] == 255
    assert np.flatnonzero(green.any(axis=0))[[0, -1]].tolist() == [20, 39]
    assert np.flatnonzero(green.any(axis=1))[[0, -1]].tolist() == [40, 59]
    assert not green[50, 30]
    outside = BoxLayer(np.array([-30, -30, 90, 90], np.float32), GREEN)
    rgb = render_panel(Panel(image, boxes=[outside]), side_px=64)[CAPTION_PX:]
    assert (rgb[[0, 63], :, 1] == 255).all()


def test_caption_is_written_above_the_image() -> None:
    blank, text = (render_panel(Panel(np.zeros((8, 8), np.uint8), c)) for c in ("", "slice 3"))
    assert (blank[:CAPTION_PX] == BACKGROUND).all()
    assert (text[:CAPTION_PX] > 200).any()
    assert (text[CAPTION_PX:] == blank[CAPTION_PX:]).all()


def test_grid_places_panels_row_by_row() -> None:
    panels = [Panel(np.full((8, 8), 40 * (i + 1), np.uint8)) for i in range(5)]
    grid = render_grid(panels, columns=3, side_px=32)
    assert grid.shape == (2 * (32 + CAPTION_PX + GAP_PX) + GAP_PX, 3 * (32 + GAP_PX) + GAP_PX, 3)
    for i in range(5):
        y = GAP_PX + (i // 3) * (32 + CAPTION_PX + GAP_PX) + CAPTION_PX + 16
        assert grid[y, GAP_PX + (i % 3) * (32 + GAP_PX) + 16, 0] == 40 * (i + 1)
    assert render_grid(panels[:1], columns=3, side_px=32).shape[1] == 32 + 2 * GAP_PX
    with pytest.raises(ValueError, match="at least one panel"):
        render_grid([], columns=3)


def test_colors_are_distinct_and_repeat() -> None:
    assert len({color_of(i) for i in range(len(PALETTE))}) == len(PALETTE)
    assert color_of(len(PALETTE)) == color_of(0)


def test_png_round_trip_makes_its_folder(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    path = tmp_path / "pictures" / "a.png"
    write_png(path, rgb)
    assert (np.asarray(Image.open(path)) == rgb).all()
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"folder\.png"):
        write_png(tmp_path / "folder.png", rgb)
