"""Prompts as they are written on the command line."""

import pytest

from medsam2_ft.errors import UserError
from medsam2_ft.segmenting.given import parse_boxes, parse_names, parse_points, parse_range


def test_boxes_are_objects_of_their_own() -> None:
    first, second, third = parse_boxes(["1,2,3,4@5", "2:1,2,3,4", "1,2,3,4,5,6"], "mm", "ras")
    assert (first.object_id, second.object_id, third.object_id) == (1, 2, 3)
    assert (first.kind, first.values, first.slice) == ("box2d", (1.0, 2.0, 3.0, 4.0), 5.0)
    assert (second.kind, second.slice) == ("box2d", None)
    assert (third.kind, third.values) == ("box3d", (1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    assert {(box.units, box.world) for box in (first, second, third)} == {("mm", "ras")}


def test_boxes_pass_over_the_numbers_that_are_taken() -> None:
    boxes = parse_boxes(["1,2,3,4@0", "1:1,2,3,4@1", "3:1,2,3,4@1", "1,2,3,4@0"], "voxels", "lps")
    assert [box.object_id for box in boxes] == [2, 1, 3, 4]


def test_points() -> None:
    volume, flat, other = parse_points(["1,2,3,0", "4,5,1", "7:-1.5,2,3,1"], "voxels", "lps")
    assert (volume.kind, volume.values, volume.label) == ("point3d", (1.0, 2.0, 3.0), 0)
    assert (flat.kind, flat.values, flat.label) == ("point2d", (4.0, 5.0), 1)
    assert (other.object_id, other.values) == (7, (-1.5, 2.0, 3.0))


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "1,2,3,4,5,6@7", "1,2,3,4@5,6", "a,b,c,d", "1,2,3,4@",
             "1,2,3,nan", "0:1,2,3,4", "70000:1,2,3,4", "x:1,2,3,4", "1 2 3 4", "1,2,3,1e999"],
)  # fmt: skip
def test_boxes_of_another_form(text: str) -> None:
    with pytest.raises(UserError, match=r"^--box .*") as caught:
        parse_boxes([text], "voxels", "lps")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["1,2", "1,2,3,4,5", "1,2,3,2", "1,2,-1", "1,2,x,1"])
def test_points_of_another_form(text: str) -> None:
    with pytest.raises(UserError, match=r"^--points .*"):
        parse_points([text], "voxels", "lps")


def test_ranges() -> None:
    assert parse_range(None) is None
    assert parse_range("full") == "full"
    assert parse_range("3:12") == (3, 12)
    for text in ("3", "3:", ":3", "5:4", "-1:4", "a:b", "1:2:3"):
        with pytest.raises(UserError, match="--range"):
            parse_range(text)


def test_names() -> None:
    assert parse_names(["liver", "5=left  lung"]) == {1: "liver", 5: "left lung"}
    for texts in (["x=liver"], ["liver", "1=spleen"], ["2="], ["0=a"], [" "]):
        with pytest.raises(UserError, match="--names"):
            parse_names(texts)
