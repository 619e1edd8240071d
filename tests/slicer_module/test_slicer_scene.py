"""Voxels of volumes and segments: read as they are, written where they changed."""

import itertools
from typing import Any

import numpy as np
import pytest
from test_slicer_geometry import GRIDS, SHAPE, oblique, rotation, transform, volume_of

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer_core", reason="slicer-core has wheels for Python 3.11 alone")

RNG = np.random.default_rng(0)


def segment(scene: Any, volume: Any, name: str = "liver", node_id: str = "") -> Any:
    return scene.add_segment(node_id or scene.new_segmentation(volume.GetID()), name)


def write(scene: Any, target: Any, grid: Any, mask: Any) -> None:
    before = scene.read_segment(target, grid)
    scene.write_segment(target, grid, (0, 0, 0), mask & ~before, before & ~mask)


@pytest.mark.parametrize("matrix", GRIDS)
def test_what_is_written_is_read_again_and_lies_where_the_volume_does(
    slicer: Any, scene: Any, matrix: Any
) -> None:
    volume = volume_of(slicer, matrix)
    _, grid = scene.read_volume(volume.GetID(), None)
    target = segment(scene, volume)
    mask = RNG.random(SHAPE) < 0.2
    write(scene, target, grid, mask)
    assert np.array_equal(scene.read_segment(target, grid), mask)
    node = slicer.mrmlScene.GetNodeByID(target.node_id)
    exported = slicer.util.arrayFromSegmentBinaryLabelmap(node, target.segment_id, volume)
    assert np.array_equal(exported > 0, mask)
    smaller = mask & (RNG.random(SHAPE) < 0.5)
    write(scene, target, grid, smaller)
    assert np.array_equal(scene.read_segment(target, grid), smaller)


def test_only_the_named_voxels_change(slicer: Any, scene: Any) -> None:
    volume = volume_of(slicer, oblique(0))
    _, grid = scene.read_volume(volume.GetID(), None)
    target = segment(scene, volume)
    mine = RNG.random(SHAPE) < 0.3
    write(scene, target, grid, mine)
    add, remove = np.zeros((2, 3, 4), bool), np.zeros((2, 3, 4), bool)
    add[0, 0, 0] = add[1, 2, 3] = remove[0, 1, 1] = True
    scene.write_segment(target, grid, (3, 4, 5), add, remove)
    expected = mine.copy()
    expected[3, 4, 5] = expected[4, 6, 8] = True
    expected[3, 5, 6] = False
    assert np.array_equal(scene.read_segment(target, grid), expected)


@pytest.mark.parametrize("collapsed", [False, True])
def test_segments_overlap(slicer: Any, scene: Any, collapsed: bool) -> None:
    volume = volume_of(slicer, oblique(0))
    _, grid = scene.read_volume(volume.GetID(), None)
    one = segment(scene, volume, "organ")
    two, three = (segment(scene, volume, name, one.node_id) for name in ("tumour", "vessel"))
    masks = {target: np.zeros(SHAPE, bool) for target in (one, two, three)}
    masks[one][1:4, 1:5, 1:6] = masks[two][2:6, 3:7, 2:8] = masks[three][0, 0, 0] = True
    write(scene, one, grid, masks[one])
    write(scene, three, grid, masks[three])
    if collapsed:  # segments that do not meet share one labelmap then
        slicer.mrmlScene.GetNodeByID(one.node_id).GetSegmentation().CollapseBinaryLabelmaps(False)
    write(scene, two, grid, masks[two])
    for target, mask in masks.items():
        assert np.array_equal(scene.read_segment(target, grid), mask)
    masks[one][2, 3] = False
    write(scene, one, grid, masks[one])
    for target, mask in masks.items():
        assert np.array_equal(scene.read_segment(target, grid), mask)


def test_segments_under_another_transform_get_the_same_place(slicer: Any, scene: Any) -> None:
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = rotation(5), (30, -20, 10)
    volume = volume_of(slicer, oblique(1))
    target = segment(scene, volume)
    volume.SetAndObserveTransformNodeID(transform(slicer, moved).GetID())
    _, grid = scene.read_volume(volume.GetID(), None)
    mask = RNG.random(SHAPE) < 0.2
    write(scene, target, grid, mask)
    assert np.array_equal(scene.read_segment(target, grid), mask)
    node = slicer.mrmlScene.GetNodeByID(target.node_id)
    image = node.GetBinaryLabelmapInternalRepresentation(target.segment_id)
    matrix = slicer.vtkMatrix4x4() if hasattr(slicer, "vtkMatrix4x4") else None
    if matrix is None:
        import vtk

        matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    found = slicer.util.arrayFromVTKMatrix(matrix)
    assert np.allclose(found[:3, :3], (moved @ oblique(1))[:3, :3], atol=1e-4)


def test_transforms_that_do_not_fit_are_refused(slicer: Any, scene: Any) -> None:
    from MedSAM2FTLib.masks import SceneError

    volume = volume_of(slicer, oblique(1))
    target = segment(scene, volume)
    shear = np.eye(4)
    shear[0, 1] = 0.5
    volume.SetAndObserveTransformNodeID(transform(slicer, shear).GetID())
    _, grid = scene.read_volume(volume.GetID(), None)
    with pytest.raises(SceneError, match="same"):
        scene.write_segment(target, grid, (0, 0, 0), np.ones(SHAPE, bool), np.zeros(SHAPE, bool))
    bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    import vtk

    spline = vtk.vtkThinPlateSplineTransform()
    bent.SetAndObserveTransformToParent(spline)
    volume.SetAndObserveTransformNodeID(bent.GetID())
    with pytest.raises(SceneError, match="not linear"):
        scene.write_segment(target, grid, (0, 0, 0), np.ones(SHAPE, bool), np.zeros(SHAPE, bool))


def test_a_segment_of_another_grid_is_refused(slicer: Any, scene: Any) -> None:
    from MedSAM2FTLib.masks import SceneError

    volume, other = volume_of(slicer, oblique(0)), volume_of(slicer, oblique(1))
    _, grid = scene.read_volume(volume.GetID(), None)
    _, other_grid = scene.read_volume(other.GetID(), None)
    target = segment(scene, other)
    write(scene, target, other_grid, np.ones(SHAPE, bool))
    with pytest.raises(SceneError, match="another grid"):
        scene.read_segment(target, grid)


def test_voxels_are_sent_as_they_are(slicer: Any, scene: Any) -> None:
    for dtype, sent in itertools.chain(
        [(name, name) for name in ("uint8", "int16", "uint16", "int32", "float32", "float64")],
        [("uint64", "int32")],  # Slicer itself refuses long long
    ):
        array = RNG.integers(0, 200, SHAPE).astype(dtype)
        volume = volume_of(slicer, np.eye(4), array)
        voxels, grid = scene.read_volume(volume.GetID(), None)
        assert voxels.dtype == sent
        assert np.array_equal(voxels, array)
        assert grid.shape == SHAPE
        voxels[:] = 7  # a copy: what is done to it is not done to the user's
        assert np.array_equal(slicer.util.arrayFromVolume(volume), array)


@pytest.mark.parametrize("components", [3, 4])
def test_colour(slicer: Any, scene: Any, components: int) -> None:
    array = RNG.integers(0, 256, (*SHAPE, components), dtype=np.uint8)
    volume = volume_of(slicer, np.eye(4), array)
    assert scene.frame_count(volume.GetID()) == 1
    voxels, grid = scene.read_volume(volume.GetID(), None)
    assert np.array_equal(voxels, array[..., :3])
    assert grid.shape == SHAPE


def test_components_that_are_no_colours_are_frames(slicer: Any, scene: Any) -> None:
    from MedSAM2FTLib.masks import SceneError

    array = RNG.integers(0, 999, (*SHAPE, 5)).astype(np.int16)
    volume = volume_of(slicer, np.eye(4), array)
    assert scene.frame_count(volume.GetID()) == 5
    with pytest.raises(SceneError, match="5 frames: choose one of 0-4"):
        scene.read_volume(volume.GetID(), None)
    voxels, _ = scene.read_volume(volume.GetID(), 3)
    assert np.array_equal(voxels, array[..., 3])


def sequence_of(slicer: Any, frames: Any, matrix: Any) -> tuple[Any, Any]:
    """A sequence with a browser; returns the volume that shows it, and the browser."""
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode")
    for number, frame in enumerate(frames):
        volume = volume_of(slicer, matrix, frame)
        sequence.SetDataNodeAtValue(volume, str(number))
        slicer.mrmlScene.RemoveNode(volume)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.AddSynchronizedSequenceNode(sequence)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    return browser.GetProxyNode(sequence), browser


def test_a_sequence_asks_for_a_frame(slicer: Any, scene: Any) -> None:
    from MedSAM2FTLib.masks import SceneError

    frames = RNG.integers(0, 999, (4, *SHAPE)).astype(np.int16)
    volume, browser = sequence_of(slicer, frames, oblique(0))
    assert scene.frame_count(volume.GetID()) == 4
    with pytest.raises(SceneError, match="4 frames"):
        scene.read_volume(volume.GetID(), None)
    voxels, grid = scene.read_volume(volume.GetID(), 2)
    assert np.array_equal(voxels, frames[2])
    assert np.allclose(grid.ijk_to_ras, oblique(0))
    scene.show_frame(volume.GetID(), 2)
    assert browser.GetSelectedItemNumber() == 2
    scene.show_frame(volume.GetID(), 1)  # the user looks at another one: the voxels stay the same
    assert scene.volume_stamp(grid) == grid.stamp


def test_the_stamp_of_a_volume_tells_a_change(slicer: Any, scene: Any) -> None:
    volume = volume_of(slicer, oblique(0))
    _, grid = scene.read_volume(volume.GetID(), None)
    assert scene.volume_stamp(grid) == grid.stamp
    slicer.util.arrayFromVolume(volume)[0, 0, 0] = 5
    slicer.util.arrayFromVolumeModified(volume)
    assert scene.volume_stamp(grid) != grid.stamp
    _, grid = scene.read_volume(volume.GetID(), None)
    volume.SetOrigin(1, 2, 3)
    assert scene.volume_stamp(grid) != grid.stamp


def test_what_was_deleted_is_said(slicer: Any, scene: Any, views: Any) -> None:
    from MedSAM2FTLib.masks import SceneGone

    volume = volume_of(slicer, oblique(0))
    _, grid = scene.read_volume(volume.GetID(), None)
    target = segment(scene, volume)
    node = slicer.mrmlScene.GetNodeByID(target.node_id)
    node.GetSegmentation().RemoveSegment(target.segment_id)
    with pytest.raises(SceneGone, match="segment was deleted"):
        scene.read_segment(target, grid)
    assert scene.segment_name(target) == ""
    slicer.mrmlScene.RemoveNode(node)
    with pytest.raises(SceneGone, match="segmentation was deleted"):
        scene.segment_stamp(target)
    slicer.mrmlScene.RemoveNode(volume)
    for call in (
        lambda: scene.read_volume(volume.GetID(), None),
        lambda: scene.volume_stamp(grid),
        lambda: views.ijk_of(grid.volume_id, [[0, 0, 0]]),
        lambda: scene.frame_count(grid.volume_id),
    ):
        with pytest.raises(SceneGone, match="volume was deleted"):
            call()


def test_an_empty_volume_is_said(slicer: Any, scene: Any) -> None:
    from MedSAM2FTLib.masks import SceneError

    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
    with pytest.raises(SceneError, match="empty"):
        scene.read_volume(volume.GetID(), None)


def test_the_window_that_is_shown(slicer: Any, scene: Any) -> None:
    volume = volume_of(slicer, np.eye(4))
    display = volume.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(400, 40)
    assert scene.shown_window(volume.GetID()) == (-160, 240)


def test_a_box_is_drawn_from_its_first_corner(slicer: Any, views: Any) -> None:
    """Slicer puts the point at the first corner, then moves it to the middle of the box."""
    drawn: list[Any] = []
    views.start_box(drawn.append)
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    (roi,) = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    roi.AddControlPoint(1.0, 2.0, 3.0)
    assert drawn == []
    roi.SetNthControlPointPosition(0, 4.0, 6.0, 3.0)
    roi.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent)
    assert np.array_equal(drawn[0], [[1, 2, 3], [7, 10, 3]])
    views.stop_drawing()
    assert not list(slicer.util.getNodesByClass("vtkMRMLMarkupsROINode"))
    assert interaction.GetCurrentInteractionMode() == interaction.ViewTransform


def test_points_are_handed_over_one_by_one(slicer: Any, views: Any) -> None:
    placed: list[Any] = []
    views.start_points(placed.append)
    (points,) = slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
    assert not points.GetSaveWithScene()
    points.AddControlPoint(1.0, 2.0, 3.0)
    views.clear_points()
    points.AddControlPoint(4.0, 5.0, 6.0)
    assert np.array_equal(placed, [[1, 2, 3], [4, 5, 6]])
    slicer.mrmlScene.RemoveNode(points)
    views.clear_points()
    views.stop_drawing()
