import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam2_ft.inspection.layout import (
    LINE_PX,
    LegendEntry,
    flow,
    render_legend,
    render_text,
    stack,
    wrap_text,
)
from medsam2_ft.inspection.sheet import (
    LARGE_PX,
    SMALL_PX,
    choose_slices,
    describe,
    draw_case,
    draw_cases,
    label_colors,
)
from medsam2_ft.overlays import (
    BACKGROUND,
    CAPTION_MIN_PX,
    CAPTION_PX,
    GAP_PX,
    PALETTE,
    Panel,
    render_panel,
)
from medsam2_ft.types import Case, Geometry, IntensityRule

TOP = 2 * LINE_PX + GAP_PX + CAPTION_PX  # name, description, then the first picture


def case_of(depth: int, labelled: range, **options: object) -> Case:
    labels = np.zeros((depth, 8, 8), np.uint8)
    labels[list(labelled), 2:5, 3:7] = 4
    image = np.full((depth, 8, 8), 100, np.uint8)
    return Case("c", image, (labels,), **options)  # type: ignore[arg-type] # keywords of Case


def has(pixels: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (pixels == color).all(axis=-1)


@settings(max_examples=50, deadline=None)
@given(start=st.integers(0, 30), length=st.integers(1, 30), count=st.integers(1, 12))
def test_slices_lie_evenly_among_the_labelled(start: int, length: int, count: int) -> None:
    labelled = range(start, start + length)
    shown = choose_slices(case_of(60, labelled), count)
    assert len(shown) == min(count, length)
    assert set(shown) <= set(labelled)
    if len(shown) > 1:
        gaps = np.diff(shown)
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1
        assert abs((shown[0] - start) - (start + length - 1 - shown[-1])) <= gaps.max()


def test_slices_of_videos_and_of_cases_without_labels() -> None:
    assert choose_slices(case_of(8, range(2, 4), is_video=True), 4) == [1, 3, 5, 7]
    assert choose_slices(case_of(8, range(0)), 4) == [1, 3, 5, 7]
    assert choose_slices(case_of(1, range(1)), 4) == [0]


def test_label_box_and_legend_are_drawn() -> None:
    picture = draw_case(case_of(1, range(1), label_names={4: "liver"}), 6, alone=True)
    body = picture[TOP : TOP + LARGE_PX, GAP_PX : GAP_PX + LARGE_PX]
    pixel = LARGE_PX // 8
    tinted = (0.65 * 100 + 0.35 * np.array(PALETTE[0])).astype(np.uint8)
    assert (body[int(3.5 * pixel), int(4.5 * pixel)] == tinted).all()
    assert (body[5, 5] == 100).all()
    lines = has(body, PALETTE[0])
    rows, columns = np.flatnonzero(lines.any(axis=1)), np.flatnonzero(lines.any(axis=0))
    assert (rows[0], rows[-1]) == (2 * pixel, 5 * pixel - 1)
    assert (columns[0], columns[-1]) == (3 * pixel, 7 * pixel - 1)
    assert has(picture[TOP + LARGE_PX :], PALETTE[0]).sum() >= 12 * 12


def test_pixels_that_are_not_square() -> None:
    geometry = Geometry((1.0, 0.5, 1.0))
    picture = draw_case(case_of(1, range(1), geometry=geometry), 6, alone=True)
    body = picture[TOP:, GAP_PX : GAP_PX + LARGE_PX]
    assert has(body, (100, 100, 100))[:, 2].sum() == LARGE_PX // 2
    tall = render_panel(Panel(np.full((8, 8), 100, np.uint8), pixel_aspect=2.0), 64)
    assert has(tall, (100, 100, 100)).sum() == 64 * 32
    wide = render_panel(Panel(np.full((8, 8), 100, np.uint8), pixel_aspect=0.25), 64, crop=True)
    assert wide.shape == (16 + CAPTION_PX, 64, 3)
    narrow = render_panel(Panel(np.full((80, 8), 100, np.uint8)), 400, crop=True)
    assert narrow.shape == (400 + CAPTION_PX, CAPTION_MIN_PX, 3)
    assert has(narrow, (100, 100, 100))[-1].nonzero()[0].tolist() == list(range(60, 100))


def test_alone_in_rows_among_others_in_one_row() -> None:
    case = case_of(9, range(9))
    alone, beside = draw_case(case, 6, alone=True), draw_case(case, 6, alone=False)
    assert alone.shape[1] == 3 * (LARGE_PX + GAP_PX) + GAP_PX
    assert beside.shape[1] == 6 * (SMALL_PX + GAP_PX) + GAP_PX
    sheet = draw_cases("CT: 2 cases", [beside, beside])
    assert sheet.shape[0] > 2 * beside.shape[0]


def test_colours_differ_over_maps_and_objects_of_one_name_share_an_entry() -> None:
    one, two = np.zeros((2, 1, 8, 8), np.uint8)
    one[0, 1:3, 1:3], one[0, 5:7, 5:7], two[0, 2:4, 2:4] = 1, 9, 5
    names = {1: "cell", 9: "cell", 5: "edge"}
    case = Case("c", np.zeros((1, 8, 8), np.uint8), (one, two), label_names=names)
    assert label_colors(case) == {1: PALETTE[0], 5: PALETTE[1], 9: PALETTE[2]}
    legend = draw_case(case, 1, alone=True)[TOP + LARGE_PX :]
    swatches = [has(legend, color).any(axis=0).sum() for color in PALETTE[:3]]
    assert swatches == [6, 12, 6]  # two stripes of one swatch, and one swatch


def test_many_labels_are_counted() -> None:
    labels = np.zeros((1, 40, 40), np.uint8)
    labels[0, ::4, ::4] = np.arange(1, 101).reshape(10, 10)
    few, many = labels.copy(), Case("c", np.zeros_like(labels), (labels,))
    few[few > 16] = 0
    short = draw_case(Case("c", np.zeros_like(labels), (few,)), 1, alone=True)
    assert draw_case(many, 1, alone=True).shape[0] == short.shape[0] + LINE_PX


def test_what_a_case_is_in_words() -> None:
    geometry = Geometry((5.0, 0.8, 0.8))
    rule = IntensityRule("window", -160.0, 240.0)
    ct = case_of(3, range(3), modality="CT", geometry=geometry, intensity=rule)
    assert describe(ct) == "CT 3D, 3 x 8 x 8, 5 x 0.8 x 0.8 mm (z, y, x), window -160 to 240"
    assert describe(case_of(1, range(1))) == "modality unknown 2D, 8 x 8, rule unknown"


@given(st.text("ab ß", max_size=60), st.integers(40, 200))
def test_wrapped_text_loses_nothing_and_fits(text: str, width_px: int) -> None:
    lines = wrap_text(text, width_px)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert render_text(text, width_px).shape == (LINE_PX * len(lines), width_px, 3)
    drawn = ~has(render_text(text, width_px), BACKGROUND)
    assert not drawn[:, -2:].any()


def test_legend_breaks_lines() -> None:
    entries = [LegendEntry(f"organ number {i}", (PALETTE[i],)) for i in range(6)]
    narrow, wide = render_legend(entries, 150), render_legend(entries, 1000)
    assert (narrow.shape[0], wide.shape[0]) == (6 * LINE_PX, LINE_PX)
    assert all(has(wide, color).sum() >= 144 for color in PALETTE[:6])
    assert render_legend([], 150).shape == (0, 150, 3)


def test_blocks_flow() -> None:
    blocks = [np.full((h, w, 3), 200, np.uint8) for h, w in ((10, 40), (20, 40), (5, 90))]
    assert stack(blocks).shape == (35, 90, 3)
    sheet = flow(blocks, 100, 4)
    assert sheet.shape == (20 + 4 + 5 + 4, 90, 3)
    assert has(sheet, (200, 200, 200)).sum() == 400 + 800 + 450


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 400), (1, 400, 3)])
def test_odd_shapes(shape: tuple[int, int, int]) -> None:
    labels = np.ones(shape, np.uint8)
    for alone in (True, False):
        assert draw_case(Case("a-long-name " * 9, labels, (labels,)), 6, alone=alone).size
