"""All that knows Slicer's scene (MRML): volumes, segments, markups, views.

Voxels of volumes are only read. Nodes are named by their ids, because the user may delete them at
any time: what is gone raises ``SceneGone``.
"""

from collections.abc import Callable, Sequence
from typing import Any, Optional

import numpy as np
import slicer
import vtk
from numpy.typing import ArrayLike, NDArray

from .geometry import Slice, box_of_corners, lattice_offset, overlap, slice_of_plane
from .images import array_of, is_colour, oriented_image, sendable, voxels_of
from .masks import Grid, SceneError, SceneGone, Target

BINARY = "Binary labelmap"
_SIDE_MM = 10.0


class Scene:
    """The scene that Slicer shows now."""

    def __init__(self) -> None:
        self._pen = ""

    # Volumes

    def frame_count(self, volume_id: str) -> int:
        """Returns how many frames a volume has: 1 where it is not 4-D.

        Raises:
            SceneGone: It was deleted.
        """
        sequence = self._sequence(self._node(volume_id, "volume"))
        if sequence is not None:
            return int(sequence.GetNumberOfDataNodes())
        array = _voxels(self._node(volume_id, "volume"))
        return 1 if array.ndim == 3 or is_colour(array) else int(array.shape[3])

    def read_volume(self, volume_id: str, frame: Optional[int]) -> tuple[NDArray[Any], Grid]:
        """Copies a volume's voxels.

        Args:
            volume_id: Node.
            frame: Of a 4-D volume.

        Raises:
            SceneError: It was deleted, is empty, or is 4-D and no frame is chosen.
        """
        count = self.frame_count(volume_id)
        if count > 1 and (frame is None or not 0 <= frame < count):
            raise SceneError(f"The volume has {count} frames: choose one of 0-{count - 1}.")
        node = self._frame_node(volume_id, frame)
        array = _voxels(node)
        if array.ndim == 4:
            array = array[..., :3] if is_colour(array) else array[..., frame or 0]
        shape = (int(array.shape[0]), int(array.shape[1]), int(array.shape[2]))
        stamp = self._volume_stamp(node)
        return sendable(array), Grid(volume_id, _ijk_to_ras(node), shape, frame, stamp)

    def volume_stamp(self, grid: Grid) -> Any:
        """Returns what changes with voxels or matrix of a volume.

        Raises:
            SceneGone: It was deleted.
        """
        return self._volume_stamp(self._frame_node(grid.volume_id, grid.frame))

    def show_frame(self, volume_id: str, frame: int) -> None:
        """Lets Slicer show a frame of a sequence."""
        browser = self._browser(self._node(volume_id, "volume"))
        if browser is not None:
            browser.SetSelectedItemNumber(frame)

    def shown_window(self, volume_id: str) -> tuple[float, float]:
        """Returns the values that Slicer shows as black and white now.

        Raises:
            SceneError: The volume has no such display.
        """
        display = self._node(volume_id, "volume").GetDisplayNode()
        if display is None or not hasattr(display, "GetWindow"):
            raise SceneError("The volume is not shown with a window: choose a preset.")
        level, half = float(display.GetLevel()), float(display.GetWindow()) / 2
        return level - half, level + half

    # Segments

    def segment_name(self, target: Target) -> str:
        """Returns a segment's name; empty where it was deleted."""
        try:
            return str(self._segment(target)[1].GetName())
        except SceneGone:
            return ""

    def segment_place(self, target: Target) -> int:
        """Returns where a segment stands in its list, from 0.

        Raises:
            SceneGone: It was deleted.
        """
        node, _ = self._segment(target)
        return int(node.GetSegmentation().GetSegmentIndex(target.segment_id))

    def segment_stamp(self, target: Target) -> Any:
        """Returns what changes with a segment's voxels.

        Raises:
            SceneGone: It was deleted.
        """
        node, segment = self._segment(target)
        image = segment.GetRepresentation(BINARY)
        if image is None:
            return None
        scalars = image.GetPointData().GetScalars()
        changed = 0 if scalars is None else scalars.GetMTime()
        return image.GetMTime(), changed, segment.GetLabelValue(), node.GetTransformNodeID()

    def read_segment(self, target: Target, grid: Grid) -> NDArray[np.bool_]:
        """Returns a segment's mask in a grid.

        Raises:
            SceneGone: It was deleted, or the volume was.
            SceneError: It lies on another grid.
        """
        _, segment = self._segment(target)
        mask = np.zeros(grid.shape, np.bool_)
        image = segment.GetRepresentation(BINARY)
        if image is None:
            names = vtk.vtkStringArray()
            segment.GetContainedRepresentationNames(names)
            if names.GetNumberOfValues():
                raise SceneError(
                    f"Segment {segment.GetName()} is no labelmap: create the binary labelmap in "
                    "the module Segmentations, or choose another."
                )
            return mask
        if image.IsEmpty():
            return mask
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        reference = self._segment_matrix(target, grid)
        offset = lattice_offset(array_of(matrix), reference, grid.shape)
        if offset is None:
            raise SceneError(
                f"Segment {segment.GetName()} was drawn on another grid than the volume's: add a "
                "new segmentation for this volume."
            )
        drawn = voxels_of(image) == segment.GetLabelValue()
        first = [image.GetExtent()[2 * (2 - axis)] + offset[axis] for axis in range(3)]
        inner, outer = overlap(first, drawn.shape, grid.shape)
        mask[outer] = drawn[inner]
        return mask

    def write_segment(
        self,
        target: Target,
        grid: Grid,
        offset: Sequence[int],
        add: NDArray[np.bool_],
        remove: NDArray[np.bool_],
    ) -> None:
        """Adds voxels to a segment and removes others; all others stay as they are.

        Args:
            target: The segment.
            grid: Of the volume.
            offset: First voxel of the box, ``(k, j, i)``.
            add: Voxels within the box.
            remove: Voxels within the box.

        Raises:
            SceneGone: It was deleted, or the volume was.
            SceneError: Volume and segmentation do not lie under transforms that fit.
        """
        node, segment = self._segment(target)
        matrix = self._segment_matrix(target, grid)
        segmentation = node.GetSegmentation()
        layer = segmentation.GetLayerIndex(target.segment_id)
        ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
        if sum(segmentation.GetLayerIndex(name) == layer for name in ids) > 1:
            segmentation.SeparateSegmentLabelmap(target.segment_id)  # others stay untouched
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        for mask, mode in ((add, logic.MODE_MERGE_MAX), (remove, logic.MODE_MERGE_MIN)):
            if not mask.any():
                continue
            values = mask if mode == logic.MODE_MERGE_MAX else ~mask
            image = oriented_image(values, segment.GetLabelValue(), offset, matrix)
            if not logic.SetBinaryLabelmapToSegment(image, node, target.segment_id, mode):
                raise SceneError(f"Slicer could not write segment {self.segment_name(target)}.")

    def new_segmentation(self, volume_id: str) -> str:
        """Adds a segmentation on a volume's grid and under its transform; returns its id."""
        volume = self._node(volume_id, "volume")
        name = f"{volume.GetName()} segments"
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        return str(node.GetID())

    def add_segment(self, node_id: str, name: str = "") -> Target:
        """Adds an empty segment."""
        segmentation = self._node(node_id, "segmentation").GetSegmentation()
        return Target(node_id, str(segmentation.AddEmptySegment("", name)))

    # Views and markups

    def ijk_of(self, volume_id: str, world: ArrayLike) -> NDArray[np.float64]:
        """Returns where points of the world lie in a volume, also under transforms.

        Args:
            volume_id: Node.
            world: (n, 3), RAS millimetres.

        Returns:
            (n, 3) of ``(i, j, k)``.

        Raises:
            SceneGone: The volume was deleted.
        """
        node = self._node(volume_id, "volume")
        between = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
            None, node.GetParentTransformNode(), between
        )
        local = np.array(
            [between.TransformPoint(*map(float, point)) for point in np.asarray(world)]
        )
        inverse = np.linalg.inv(_ijk_to_ras(node))
        ijk: NDArray[np.float64] = local @ inverse[:3, :3].T + inverse[:3, 3]
        return ijk

    def roi_box(self, roi_id: str, grid: Grid) -> NDArray[np.int64]:
        """Returns the voxels that a region of interest holds, see ``geometry.box_of_corners``.

        Raises:
            SceneGone: Region or volume was deleted.
            GeometryError: It lies beside the volume.
        """
        return box_of_corners(self.ijk_of(grid.volume_id, self.roi_corners(roi_id)), grid.shape)

    def roi_corners(self, roi_id: str) -> NDArray[np.float64]:
        """Returns the eight corners of a region of interest in the world, (8, 3).

        Raises:
            SceneGone: It was deleted.
        """
        roi = self._node(roi_id, "region of interest")
        half = np.array(roi.GetSize()) / 2
        to_node = array_of(roi.GetObjectToNodeMatrix())
        to_world = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
            roi.GetParentTransformNode(), None, to_world
        )
        signs = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
        local = np.array(signs) * half @ to_node[:3, :3].T + to_node[:3, 3]
        return np.array([to_world.TransformPoint(*map(float, point)) for point in local])

    def slice_in(self, view_id: str, grid: Grid) -> Slice:
        """Returns the slice of a volume that a view shows.

        Raises:
            SceneGone: View or volume was deleted.
            GeometryError: See ``geometry.slice_of_plane``.
        """
        plane = array_of(self._node(view_id, "view").GetSliceToRAS())
        points = [plane[:3, 3], *(plane[:3, 3] + _SIDE_MM * plane[:3, side] for side in (0, 1))]
        ijk = self.ijk_of(grid.volume_id, points)
        voxel_mm = np.linalg.norm(grid.ijk_to_ras[:3, :3], axis=0)
        return slice_of_plane(ijk[0], ijk[1:] - ijk[0], voxel_mm.tolist(), grid.shape)

    def view_at(self, point: Sequence[float], under_cursor: Optional[str] = None) -> str:
        """Returns the slice view in whose plane a point was placed.

        Args:
            point: RAS millimetres.
            under_cursor: View that wins where several planes meet in the point.

        Raises:
            SceneError: It lies in none.
        """
        near = []
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            plane = array_of(node.GetSliceToRAS())
            distance_mm = abs(float((np.asarray(point) - plane[:3, 3]) @ plane[:3, 2]))
            near.append((distance_mm, node.GetID() != under_cursor, str(node.GetID())))
        close = [entry for entry in near if entry[0] < 0.1]
        if not close:
            raise SceneError("The prompt lies in no slice view: draw it in red, yellow or green.")
        return min(close, key=lambda entry: entry[1])[2]

    def align_views(self, volume_id: str) -> None:
        """Turns the slice views so that each shows one slice of the volume."""
        volume = self._node(volume_id, "volume")
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            node.RotateToVolumePlane(volume)

    def under_cursor(self) -> Optional[str]:
        """Returns the slice view that the mouse is in, if it is in one."""
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        view = None if crosshair is None else crosshair.GetCursorPositionXYZ([0.0, 0.0, 0.0])
        return None if view is None else str(view.GetID())

    # Drawing

    def start_box(self, drawn: Callable[[NDArray[np.float64]], None]) -> None:
        """Lets the user draw a box in a view.

        Args:
            drawn: Gets two opposite corners in the world, (2, 3).
        """
        corners: list[NDArray[np.float64]] = []

        def placed(roi: Any, _: Any) -> None:
            corners.append(_last_point(roi))
            if len(corners) == 2:  # Slicer has moved the point from the first corner to the middle
                drawn(np.stack([corners[0], 2 * corners[1] - corners[0]]))

        self._start("vtkMRMLMarkupsROINode", "MedSAM2-FT box", placed, persistent=False)

    def start_points(self, placed: Callable[[NDArray[np.float64]], None]) -> None:
        """Lets the user place points until ``stop_drawing``; each is handed over, (3,)."""

        def one(points: Any, _: Any) -> None:
            placed(_last_point(points))

        self._start("vtkMRMLMarkupsFiducialNode", "MedSAM2-FT points", one, persistent=True)

    def clear_points(self) -> None:
        """Removes the points that were handed over; not while their event is on its way."""
        node = slicer.mrmlScene.GetNodeByID(self._pen) if self._pen else None
        if node is not None and node.IsA("vtkMRMLMarkupsFiducialNode"):
            node.RemoveAllControlPoints()

    def stop_drawing(self) -> None:
        """Ends drawing and removes what it needed; not while an event is on its way."""
        node = slicer.mrmlScene.GetNodeByID(self._pen) if self._pen else None
        self._pen = ""
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)
        interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        if interaction is not None:
            interaction.SwitchToViewTransformMode()

    # Inside

    def _start(self, kind: str, name: str, placed: Any, *, persistent: bool) -> None:
        self.stop_drawing()
        node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
        node.SetSaveWithScene(False)
        node.CreateDefaultDisplayNodes()
        node.AddObserver(slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent, placed)
        self._pen = str(node.GetID())
        selection = slicer.mrmlScene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
        interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        if selection is None or interaction is None:
            raise SceneError("Slicer has no mouse modes here: draw a region of interest instead.")
        selection.SetReferenceActivePlaceNodeClassName(kind)
        selection.SetActivePlaceNodeID(self._pen)
        interaction.SetPlaceModePersistence(int(persistent))
        interaction.SetCurrentInteractionMode(interaction.Place)

    def _node(self, node_id: str, what: str) -> Any:
        node = slicer.mrmlScene.GetNodeByID(node_id) if node_id else None
        if node is None:
            raise SceneGone(f"The {what} was deleted: choose another.")
        return node

    def _browser(self, volume: Any) -> Any:
        sequences = getattr(slicer.modules, "sequences", None)
        if sequences is None:
            return None
        return sequences.logic().GetFirstBrowserNodeForProxyNode(volume)

    def _sequence(self, volume: Any) -> Any:
        browser = self._browser(volume)
        return None if browser is None else browser.GetSequenceNode(volume)

    def _frame_node(self, volume_id: str, frame: Optional[int]) -> Any:
        """The node that holds the voxels: of a sequence, the chosen frame, whatever is shown."""
        volume = self._node(volume_id, "volume")
        sequence = self._sequence(volume)
        if sequence is None or frame is None:
            return volume
        node = sequence.GetNthDataNode(frame)
        if node is None:
            raise SceneGone(f"Frame {frame} was deleted: choose another.")
        return node

    def _volume_stamp(self, node: Any) -> Any:
        image = node.GetImageData()
        if image is None:
            raise SceneError("The volume is empty: choose another.")
        scalars = image.GetPointData().GetScalars()
        changed = 0 if scalars is None else scalars.GetMTime()
        return image.GetMTime(), changed, tuple(_ijk_to_ras(node).ravel().tolist())

    def _segment(self, target: Target) -> tuple[Any, Any]:
        node = self._node(target.node_id, "segmentation")
        segment = node.GetSegmentation().GetSegment(target.segment_id)
        if segment is None:
            raise SceneGone("The segment was deleted: choose another.")
        return node, segment

    def _segment_matrix(self, target: Target, grid: Grid) -> NDArray[np.float64]:
        """The matrix of the volume's voxels in the coordinates of a segmentation."""
        volume = self._node(grid.volume_id, "volume")
        node = self._node(target.node_id, "segmentation")
        between = vtk.vtkMatrix4x4()
        if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(
            volume.GetParentTransformNode(), node.GetParentTransformNode(), between
        ):
            raise SceneError(
                "Volume and segmentation lie under different transforms that are not linear: put "
                "both under the same."
            )
        matrix: NDArray[np.float64] = array_of(between) @ grid.ijk_to_ras
        return matrix


def _last_point(markups: Any) -> NDArray[np.float64]:
    position = [0.0, 0.0, 0.0]
    markups.GetNthControlPointPositionWorld(markups.GetNumberOfControlPoints() - 1, position)
    return np.array(position)


def _ijk_to_ras(volume: Any) -> NDArray[np.float64]:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return array_of(matrix)


def _voxels(volume: Any) -> NDArray[Any]:
    image = volume.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise SceneError(f"Volume {volume.GetName()} is empty: choose another.")
    return voxels_of(image)
