"""Slicer's world and the server's voxels, for every way a volume can lie in the scanner."""

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer_core", reason="slicer-core has wheels for Python 3.11 alone")

SHAPE = (7, 9, 11)  # k, j, i: all different, so that no axis can stand for another
SPACING = np.array([0.7, 1.3, 10.0])


def grids() -> list[tuple[str, NDArray[np.float64]]]:
    """All 48 permutations and flips of the axes, and two oblique ones."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.eye(4)
            matrix[:3, :3] = np.eye(3)[:, order] * signs * SPACING
            matrix[:3, 3] = (5.5, -17.25, 31.0)
            name = "".join("xyz"[axis] for axis in order) + "".join("+-"[s < 0] for s in signs)
            found.append((name, matrix))
    return [*found, *((f"oblique{seed}", oblique(seed)) for seed in (0, 1))]


def rotation(seed: int) -> NDArray[np.float64]:
    turned, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return turned


def oblique(seed: int) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(seed) * SPACING
    matrix[:3, 3] = (-8.0, 2.5, 40.0)
    return matrix


GRIDS = [pytest.param(matrix, id=name) for name, matrix in grids()]
BOX = np.array([[2, 3, 1], [8, 6, 4]])  # first and last voxel, i j k


def volume_of(slicer: Any, matrix: NDArray[np.float64], array: Any = None) -> Any:
    voxels = np.zeros(SHAPE, np.int16) if array is None else array
    kind = "vtkMRMLVectorVolumeNode" if voxels.ndim == 4 else None
    return slicer.util.addVolumeFromArray(voxels, matrix, "volume", kind)


def transform(slicer: Any, matrix: NDArray[np.float64]) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def world(matrix: NDArray[np.float64], ijk: Any) -> NDArray[np.float64]:
    return np.asarray(ijk, float) @ matrix[:3, :3].T + matrix[:3, 3]


def roi_on(slicer: Any, matrix: NDArray[np.float64], box: NDArray[Any] = BOX) -> Any:
    """A region of interest whose faces are those of the box's outermost voxels."""
    low, high = box[0] - 0.5, box[1] + 0.5
    to_node = np.eye(4)
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    to_node[:3, :3] = matrix[:3, :3] / lengths
    to_node[:3, 3] = world(matrix, (low + high) / 2)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roi.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(to_node))
    roi.SetSize(*((high - low) * lengths))
    return roi


@pytest.mark.parametrize("matrix", GRIDS)
def test_a_region_of_interest_holds_the_voxels_that_it_was_drawn_around(
    slicer: Any, scene: Any, views: Any, matrix: NDArray[np.float64]
) -> None:
    _, grid = scene.read_volume(volume_of(slicer, matrix).GetID(), None)
    assert np.array_equal(views.roi_box(roi_on(slicer, matrix).GetID(), grid), BOX)


@pytest.mark.parametrize("matrix", GRIDS[::7])
@pytest.mark.parametrize("which", ["volume", "markup", "both"])
def test_transforms_of_markup_and_volume_are_heeded(
    slicer: Any, scene: Any, views: Any, matrix: NDArray[np.float64], which: str
) -> None:
    moved = np.eye(4)
    moved[:3, :3] = rotation(3)
    moved[:3, 3] = (100, -50, 25)
    parent = transform(slicer, moved)
    volume = volume_of(slicer, matrix)
    lies = matrix
    if which != "markup":
        volume.SetAndObserveTransformNodeID(parent.GetID())
        lies = moved @ matrix
    roi = roi_on(slicer, lies if which == "volume" else matrix)
    if which != "volume":
        roi.SetAndObserveTransformNodeID(parent.GetID())
    if which == "markup":
        volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(moved @ matrix))
    _, grid = scene.read_volume(volume.GetID(), None)
    assert np.array_equal(views.roi_box(roi.GetID(), grid), BOX)


def test_all_eight_corners_count_where_the_region_is_turned(
    slicer: Any, scene: Any, views: Any
) -> None:
    """Around a cube that is turned by 45 degrees lie more voxels than between two corners."""
    _, grid = scene.read_volume(volume_of(slicer, np.eye(4)).GetID(), None)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    turned = np.eye(4)
    turned[:2, :2] = np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    turned[:3, 3] = (5, 4, 3)
    roi.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(turned))
    roi.SetSize(4, 4, 2)
    assert views.roi_box(roi.GetID(), grid).tolist() == [[3, 2, 2], [7, 6, 4]]


def view_on(slicer: Any, matrix: NDArray[np.float64], axis: int, index: int, flip: int = 1) -> Any:
    """A slice view that shows one slice of a grid."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    others = [along for along in range(3) if along != 2 - axis]
    plane = np.eye(4)
    for column, along in enumerate(others):
        plane[:3, column] = matrix[:3, along] / np.linalg.norm(matrix[:3, along])
    plane[:3, 0] *= flip
    plane[:3, 2] = np.cross(plane[:3, 0], plane[:3, 1])
    middle = (np.array(SHAPE[::-1]) - 1) / 2
    middle[2 - axis] = index
    plane[:3, 3] = world(matrix, middle)
    node.GetSliceToRAS().DeepCopy(slicer.util.vtkMatrixFromArray(plane))
    node.UpdateMatrices()
    return node


@pytest.mark.parametrize("matrix", GRIDS)
def test_each_view_shows_the_slice_that_it_shows(
    slicer: Any, scene: Any, views: Any, matrix: NDArray[np.float64]
) -> None:
    volume = volume_of(slicer, matrix)
    _, grid = scene.read_volume(volume.GetID(), None)
    for axis, flip in itertools.product(range(3), (1, -1)):
        for index in (0, SHAPE[axis] - 1):
            view = view_on(slicer, matrix, axis, index, flip)
            shown = views.slice_in(view.GetID(), grid)
            assert (shown.axis, shown.index) == (axis, index)


def test_a_tilted_view_is_refused_until_it_is_aligned(slicer: Any, scene: Any, views: Any) -> None:
    from MedSAM2FTLib.geometry import GeometryError

    matrix = oblique(1)
    volume = volume_of(slicer, matrix)
    _, grid = scene.read_volume(volume.GetID(), None)
    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    centre = world(matrix, (np.array(SHAPE[::-1]) - 1) / 2)
    view.JumpSlice(*centre)
    with pytest.raises(GeometryError, match="Align views"):
        views.slice_in(view.GetID(), grid)
    views.align_views(volume.GetID())
    shown = views.slice_in(view.GetID(), grid)
    assert abs(shown.index - (SHAPE[shown.axis] - 1) / 2) <= 1


def test_a_view_beside_the_volume_is_refused(slicer: Any, scene: Any, views: Any) -> None:
    from MedSAM2FTLib.geometry import GeometryError

    _, grid = scene.read_volume(volume_of(slicer, np.eye(4)).GetID(), None)
    with pytest.raises(GeometryError, match="scroll"):
        views.slice_in(view_on(slicer, np.eye(4), 0, 7).GetID(), grid)


def test_clicks_are_the_voxels_under_them(slicer: Any, scene: Any) -> None:
    from MedSAM2FTLib.geometry import (
        GeometryError,
        Slice,
        box_of_clicks,
        box_on_slice,
        point_on_slice,
    )

    clicks = np.array([[7.6, 2.4, 3.0], [1.6, 5.4, 3.0]])
    box = box_of_clicks(clicks, SHAPE)
    assert box_on_slice(box, 0) == [2, 2, 8, 5]
    assert point_on_slice(clicks[0], Slice(0, 3), SHAPE) == [8, 2]
    assert point_on_slice(clicks[0], Slice(1, 2), SHAPE) == [8, 3]
    assert point_on_slice(clicks[0], Slice(2, 8), SHAPE) == [2, 3]
    with pytest.raises(GeometryError, match="beside"):
        point_on_slice(np.array([11.0, 2, 3]), Slice(0, 3), SHAPE)
    with pytest.raises(GeometryError, match="beside"):
        box_of_clicks(clicks + np.array([30, 0, 0]), SHAPE)
    cut = box_of_clicks(clicks + np.array([5, 0, 0]), SHAPE)
    assert box_on_slice(cut, 0) == [7, 2, 10, 5]


def test_the_view_of_a_prompt_is_the_one_it_lies_in(slicer: Any, views: Any) -> None:
    from MedSAM2FTLib.masks import SceneError

    red, green = (view_on(slicer, np.eye(4), axis, 3).GetID() for axis in (0, 1))
    assert views.view_at((5, 1, 3)) == red
    assert views.view_at((5, 3, 1)) == green
    assert views.view_at((5, 3, 3), green) == green
    with pytest.raises(SceneError, match="slice view"):
        views.view_at((5, 1, 1))
