"""Contours onto the grid of an image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import SECRET, save, structure_set
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as MatplotlibPath
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medsam2_ft.errors import UserError
from medsam2_ft.io import read_labels
from medsam2_ft.io.dicom.polygons import toggle_polygon
from medsam2_ft.types import Geometry, Volume

SHAPE = (6, 20, 30)
AXES = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
GRID = Geometry((3.0, 0.8, 1.1), (-40.0, 12.0, 7.0), tuple(AXES.ravel()))
IMAGE = Volume(np.zeros(SHAPE, np.int16), GRID)


def _world(points_xyz: Any) -> NDArray[np.float64]:
    """Pixel coordinates (x, y, z) to mm."""
    scaled = np.asarray(points_xyz, float) * GRID.spacing_mm[::-1]
    return scaled @ AXES.T + np.array(GRID.origin_mm)


def _square(x0: float, y0: float, x1: float, y1: float, z: float) -> tuple[str, Any]:
    corners = [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]
    return "CLOSED_PLANAR", _world(corners)


def _read(tmp_path: Path, rois: Any, like: Volume = IMAGE) -> Any:
    labels = read_labels(save(structure_set(rois), tmp_path / "rs.dcm"), like=like)
    assert not any(SECRET in note for note in labels.notes)
    return labels


def test_square_with_a_hole_on_an_oblique_grid(tmp_path: Path) -> None:
    rois = [(3, "liver", [_square(1.5, 2.5, 9.5, 8.5, 2.3), _square(3.5, 4.5, 6.5, 6.5, 2.3)])]
    labels = _read(tmp_path, rois)
    expected = np.zeros(SHAPE, np.uint8)
    expected[2, 3:9, 2:10] = 3
    expected[2, 5:7, 4:7] = 0
    assert len(labels.maps) == 1
    np.testing.assert_array_equal(labels.maps[0], expected)
    assert labels.label_names == {3: "liver"}
    assert labels.geometry == GRID
    assert labels.notes == ()


def test_names_in_another_alphabet(tmp_path: Path) -> None:
    dataset = structure_set([(1, "печень", [_square(0.5, 0.5, 4.5, 4.5, 0)])])
    dataset.SpecificCharacterSet = "ISO_IR 144"
    labels = read_labels(save(dataset, tmp_path / "rs.dcm"), like=IMAGE)
    assert labels.label_names == {1: "печень"}


def test_overlapping_regions_go_to_two_maps(tmp_path: Path) -> None:
    rois = [
        (1, "a", [_square(1.5, 1.5, 9.5, 9.5, 0)]),
        (2, "b", [_square(5.5, 5.5, 12.5, 12.5, 0)]),
    ]
    labels = _read(tmp_path, rois)
    assert [int((m > 0).sum()) for m in labels.maps] == [64, 49]


def test_numbers_that_are_no_ids_are_replaced(tmp_path: Path) -> None:
    squares = [[_square(3 * i + 0.5, 0.5, 3 * i + 2.5, 2.5, 0)] for i in range(4)]
    rois = [(2, "a", squares[0]), (2, "b", []), (0, "c", squares[2]), (70000, "d", squares[3])]
    labels = _read(tmp_path, rois)
    assert labels.label_names == {2: "a", 1: "b", 3: "c", 4: "d"}
    np.testing.assert_array_equal(np.unique(labels.maps[0]), [0, 2, 3, 4])
    assert "ROI 'b' is empty on this image" in labels.notes


def test_what_is_left_out_is_noted(tmp_path: Path) -> None:
    tilted = _world([(1, 1, 0), (9, 1, 2), (9, 9, 2), (1, 9, 0)])
    rois = [
        (1, "good", [_square(0.5, 0.5, 4.5, 4.5, 0)]),
        (2, "point", [("POINT", _world([(1, 1, 1)]))]),
        (3, "far", [_square(0.5, 0.5, 4.5, 4.5, 9), _square(0.5, 0.5, 4.5, 4.5, -0.6)]),
        (4, "tilted", [("CLOSED_PLANAR", tilted)]),
        (5, "two", [("CLOSED_PLANAR", _world([(1, 1, 1), (2, 2, 1)]))]),
        (6, "edge", [_square(25.5, 0.5, 35.5, 4.5, 1)]),
        (7, "beside", [_square(40.5, 0.5, 45.5, 4.5, 1)]),
        (8, "tiny", [_square(1.1, 1.1, 1.2, 1.2, 1)]),
    ]
    labels = _read(tmp_path, rois)
    notes = "\n".join(labels.notes)
    for expected in (
        "ROI 'point': 1 POINT contours",
        "ROI 'far': 2 contours beyond the first or last slice",
        "ROI 'tilted': 1 contours that are not parallel",
        "ROI 'two': 1 contours without three points",
        "ROI 'edge': 1 contours reach beyond the image",
        "ROI 'beside' is empty",
        "ROI 'tiny' is empty",
    ):
        assert expected in notes
    assert int((labels.maps[0] == 6).sum()) == 4 * 4


def test_nearest_plane_counts_where_several_meet_in_a_slice(tmp_path: Path) -> None:
    rois = [(1, "a", [_square(0.5, 0.5, 4.5, 4.5, z) for z in (0.7, 1.1)])]
    labels = _read(tmp_path, rois)
    assert int(labels.maps[0][1].sum()) == 16
    assert "1 contours between slices" in labels.notes[0]


def test_contours_need_an_image_with_a_place(tmp_path: Path) -> None:
    path = save(structure_set([(1, "a", [_square(0, 0, 4, 4, 0)])]), tmp_path / "rs.dcm")
    with pytest.raises(UserError, match="give the image"):
        read_labels(path)
    with pytest.raises(UserError, match="does not say where it lies"):
        read_labels(path, like=Volume(IMAGE.array, has_geometry=False))


def test_contours_of_another_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of its 1 closed contours"):
        _read(tmp_path, [(1, "a", [_square(0, 0, 4, 4, 50)])])
    with pytest.raises(UserError, match="names no ROI"):
        _read(tmp_path, [])


@given(
    st.lists(st.floats(0, 6.28), min_size=3, max_size=12, unique=True), st.floats(1, 12, width=32)
)
def test_polygons_as_matplotlib_sees_them(angles: list[float], radius: float) -> None:
    turn = np.sort(np.array(angles))
    polygon = np.column_stack([9.03 + radius * np.cos(turn), 7.07 + radius * np.sin(turn)])
    plane = np.zeros((16, 20), np.bool_)
    toggle_polygon(plane, polygon)
    y, x = np.mgrid[:16, :20]
    centres = np.column_stack([x.ravel(), y.ravel()])
    expected = MatplotlibPath(polygon).contains_points(centres)
    sure = _distance_to_outline(centres, polygon) > 1e-6
    np.testing.assert_array_equal(plane.ravel()[sure], expected[sure])


def _distance_to_outline(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """From each of ``(n, 2)`` points to the nearest side of the closed polygon, in pixels."""
    start = polygon
    side = np.roll(polygon, -1, axis=0) - start
    from_start = points[:, None] - start
    along = (from_start * side).sum(-1) / np.maximum((side**2).sum(-1), 1e-300)
    foot = from_start - along.clip(0, 1)[..., None] * side
    return np.linalg.norm(foot, axis=-1).min(axis=1)


def test_adjacent_polygons_share_no_pixel() -> None:
    left, right = np.zeros((9, 9), np.bool_), np.zeros((9, 9), np.bool_)
    toggle_polygon(left, np.array([(0.0, 0.0), (4.0, 0.0), (4.0, 8.0), (0.0, 8.0)]))
    toggle_polygon(right, np.array([(4.0, 0.0), (8.0, 0.0), (8.0, 8.0), (4.0, 8.0)]))
    assert not (left & right).any()
    assert int((left | right).sum()) == 64
