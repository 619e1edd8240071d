"""From voxels and millimetres to frames, columns and rows; SimpleITK is the reference."""

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.segmenting.given import parse_boxes, parse_points
from medsam2_ft.segmenting.placement import Grid, Range, names_of, place, place_masks, ranged
from medsam2_ft.segmenting.prompt_file import Given
from medsam2_ft.types import Geometry, LabelVolume

SHAPE = (8, 20, 30)  # z, y, x
PLAIN = Grid(SHAPE, Geometry(), False, 0)


def oblique() -> Geometry:
    """Axes swapped, flipped and tilted."""
    rng = np.random.default_rng(3)
    turned, _ = np.linalg.qr(np.eye(3)[[1, 2, 0]] * [1, -1, 1] + 0.1 * rng.normal(size=(3, 3)))
    if np.linalg.det(turned) < 0:
        turned[:, 0] *= -1
    return Geometry((3.0, 0.7, 0.9), (-50.0, 12.0, 99.0), tuple(turned.ravel().tolist()))


def world_of(geometry: Geometry, voxel_xyz: tuple[float, float, float]) -> NDArray[Any]:
    image = sitk.Image(4, 4, 4, sitk.sitkUInt8)
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return np.array(image.TransformContinuousIndexToPhysicalPoint(voxel_xyz))


def boxes(*texts: str, grid: Grid = PLAIN, wanted: Range = None) -> list[ObjectPrompt]:
    return place(parse_boxes(texts, "voxels", "lps"), grid, wanted)


def box_of(prompt: ObjectPrompt) -> list[float]:
    (part,) = prompt.slices
    assert part.box_xyxy is not None
    return [float(side) for side in part.box_xyxy]


def test_a_flat_box_goes_through_the_whole_volume() -> None:
    (found,) = boxes("1,2,10,12@3")
    assert (found.frame, found.z_range, box_of(found)) == (3, (0, 7), [1, 2, 10, 12])


def test_a_solid_box_bounds_the_slices() -> None:
    (found,) = boxes("1,2,2,10,12,5")
    assert (found.frame, found.z_range, box_of(found)) == (3, (2, 5), [1, 2, 10, 12])


@pytest.mark.parametrize(
    ("axis", "frame", "flat", "span"),
    [(0, 3, [1, 4, 9, 8], (2, 5)), (1, 6, [1, 2, 9, 5], (4, 8)), (2, 5, [4, 2, 8, 5], (1, 9))],
)
def test_a_solid_box_along_every_axis(
    axis: int, frame: int, flat: list[float], span: tuple[int, int]
) -> None:
    (found,) = boxes("1,4,2,9,8,5", grid=Grid(SHAPE, Geometry(), False, axis))
    assert (found.frame, box_of(found), found.z_range) == (frame, flat, span)


def test_points_along_every_axis() -> None:
    points = parse_points(["1,4,2,1", "2,4,2,0"], "voxels", "lps")
    for axis, frame, place_xy in ((0, 2, [1, 4]), (1, 4, [1, 2]), (2, 1, [4, 2])):
        (found,) = place(points, Grid(SHAPE, Geometry(), False, axis))
        assert found.slices[0].frame == frame
        assert found.slices[0].points_xy[0].tolist() == place_xy
    labels = place(points, PLAIN)[0].slices[0].point_labels
    assert labels.tolist() == [1, 0]


def test_one_object_may_have_several_prompts() -> None:
    given = [
        *parse_boxes(["1:1,2,10,12@3", "1:1,2,10,12@6"], "voxels", "lps"),
        *parse_points(["4,4,3,1", "5,5,5,0"], "voxels", "lps"),
    ]
    (found,) = place(given, PLAIN)
    assert [part.frame for part in found.slices] == [3, 5, 6]
    assert found.slices[0].point_count == 3
    assert found.slices[1].box_xyxy is None


@pytest.mark.parametrize("world", ["lps", "ras"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_millimetres_of_an_oblique_image(axis: int, world: str) -> None:
    geometry = oblique()
    grid = Grid(SHAPE, geometry, True, axis)
    voxel = (11.0, 7.0, 4.0)
    point = world_of(geometry, voxel) * ([-1, -1, 1] if world == "ras" else [1, 1, 1])
    text = ",".join(f"{value:.9f}" for value in point)
    (found,) = place(parse_points([f"{text},1"], "mm", world), grid)  # type: ignore[arg-type]
    (expected,) = place(parse_points(["11,7,4,1"], "voxels", "lps"), grid)
    assert found.frame == expected.frame
    assert np.allclose(found.slices[0].points_xy, expected.slices[0].points_xy, atol=1e-4)


def test_a_box_in_millimetres_holds_all_of_its_corners() -> None:
    geometry = oblique()
    low, high = world_of(geometry, (5, 5, 2)), world_of(geometry, (15, 12, 5))
    low, high = np.minimum(low, high), np.maximum(low, high)
    text = ",".join(f"{value:.9f}" for value in (*low, *high))
    (found,) = place(parse_boxes([text], "mm", "lps"), Grid(SHAPE, geometry, True, 0))
    x0, y0, x1, y1 = box_of(found)
    assert x0 <= 5.01
    assert y0 <= 5.01
    assert x1 >= 14.99
    assert y1 >= 11.99
    assert found.z_range[0] <= 2
    assert found.z_range[1] >= 5


def test_a_flat_box_in_millimetres() -> None:
    geometry = Geometry((2.0, 0.5, 0.5), (10.0, 20.0, 30.0))
    grid = Grid(SHAPE, geometry, True, 0)
    (found,) = place(parse_boxes(["11,21,14,24@36.4"], "mm", "lps"), grid)
    assert (found.frame, box_of(found)) == (3, [2, 2, 8, 8])
    with pytest.raises(UserError, match="does not lie in one slice"):
        place(parse_boxes(["11,21,14,24@36"], "mm", "lps"), Grid(SHAPE, geometry, True, 1))


def test_what_is_segmented() -> None:
    assert boxes("1,2,10,12@3", wanted=(2, 4))[0].z_range == (2, 4)
    assert boxes("1,2,2,10,12,5", wanted=(0, 6))[0].z_range == (0, 6)
    assert boxes("1,2,2,10,12,5", wanted="full")[0].z_range == (0, 7)
    more = parse_boxes(["1:1,2,2,10,12,5", "1:1,2,10,12@6"], "voxels", "lps")
    assert place(more, PLAIN)[0].z_range == (2, 6)
    own = [Given("", "box2d", (1.0, 2.0, 10.0, 12.0), 1, 3.0, span=(3, 5))]
    assert place(own, PLAIN, (0, 7))[0].z_range == (3, 5)
    assert [p.z_range for p in ranged(boxes("1,2,10,12@3"), "full", 8)] == [(0, 7)]


@pytest.mark.parametrize(
    ("text", "wanted", "reason"),
    [
        ("40,2,50,12@3", None, "not a box inside the image of 30 x 20"),
        ("1,2,10,12@8", None, "there is no frame 8; choose one of frames 0-7"),
        ("1,2,10,12@-1", None, "frame -1"),
        ("1,2,10,12@3", (4, 6), "range 4-6 must lie within frames 0-7 and hold the"),
        ("1,2,10,12@3", (2, 8), "range 2-8"),
        ("1,2,10,12@2.5", None, "no whole number"),
        ("1,2,10,12", None, "on which of the 8 slices"),
        ("10,2,1,12@3", None, "ends before it starts"),
        ("1,2,9,10,12,9", None, "lies beyond slices 0-7"),
        ("1,2,5,10,12,3", None, "ends before it starts"),
    ],
)
def test_boxes_that_do_not_fit(text: str, wanted: Range, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        boxes(text, wanted=wanted)
    assert "\n" not in str(caught.value)


def test_two_boxes_on_one_slice() -> None:
    with pytest.raises(UserError, match="two boxes on slice 3"):
        boxes("1:1,2,10,12@3", "1:1,2,11,12@3")
    with pytest.raises(UserError, match="has a 3D box already"):
        boxes("1:1,2,3,10,12,5", "1:1,2,3,10,12,6")


def test_millimetres_need_a_place() -> None:
    with pytest.raises(UserError, match="does not say where it lies"):
        place(parse_points(["1,2,3,1"], "mm", "lps"), PLAIN)


def test_two_names_for_one_object() -> None:
    given = [Given("p: 1", "box2d", (), 1, name="a"), Given("p: 2", "box2d", (), 1, name="b")]
    assert names_of(given[:1]) == {1: "a"}
    with pytest.raises(UserError, match="p: 2: object 1 is called 'b' here and 'a' before"):
        names_of(given)


def test_drawn_masks() -> None:
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[2, 3:6, 4:9] = 4
    drawn[5, 3:6, 4:9] = 4
    drawn[5, 10:12, 4:9] = 2
    first, second = place_masks(LabelVolume((drawn,)), PLAIN)
    assert (first.object_id, [part.frame for part in first.slices]) == (2, [5])
    assert (second.object_id, [part.frame for part in second.slices]) == (4, [2, 5])
    assert second.z_range == (0, 7)
    assert second.slices[1].mask is not None
    assert np.array_equal(second.slices[1].mask, drawn[5] == 4)
    turned = place_masks(LabelVolume((drawn,)), Grid(SHAPE, Geometry(), False, 2), (4, 8))
    assert [len(prompt.slices) for prompt in turned] == [5, 5]
    with pytest.raises(UserError, match="the mask is empty"):
        place_masks(LabelVolume((np.zeros(SHAPE, np.uint8),)), PLAIN)
    with pytest.raises(UserError, match="has the grid"):
        place_masks(LabelVolume((drawn[1:],)), PLAIN)
