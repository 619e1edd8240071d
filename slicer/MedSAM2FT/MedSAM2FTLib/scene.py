"""Volumes and segments of Slicer's scene; voxels of volumes are only read."""

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray

from .geometry import lattice_offset, overlap
from .images import array_of, is_colour, oriented_image, sendable, voxels_of
from .masks import Grid, SceneError, SceneGone, Target
from .nodes import ijk_to_ras_of, node_of

BINARY = "Binary labelmap"


class Scene:
    """The scene that Slicer shows now."""

    # Volumes

    def frame_count(self, volume_id: str) -> int:
        """Returns how many frames a volume has: 1 where it is not 4-D.

        Raises:
            SceneGone: It was deleted.
        """
        sequence = self._sequence(node_of(volume_id, "volume"))
        if sequence is not None:
            return int(sequence.GetNumberOfDataNodes())
        array = _voxels(node_of(volume_id, "volume"))
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
        return sendable(array), Grid(volume_id, ijk_to_ras_of(node), shape, frame, stamp)

    def volume_stamp(self, grid: Grid) -> Any:
        """Returns what changes with voxels or matrix of a volume.

        Raises:
            SceneGone: It was deleted.
        """
        return self._volume_stamp(self._frame_node(grid.volume_id, grid.frame))

    def show_frame(self, volume_id: str, frame: int) -> None:
        """Lets Slicer show a frame of a sequence."""
        browser = self._browser(node_of(volume_id, "volume"))
        if browser is not None:
            browser.SetSelectedItemNumber(frame)

    def shown_window(self, volume_id: str) -> tuple[float, float]:
        """Returns the values that Slicer shows as black and white now.

        Raises:
            SceneError: The volume has no such display.
        """
        display = node_of(volume_id, "volume").GetDisplayNode()
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
        volume = node_of(volume_id, "volume")
        name = f"{volume.GetName()} segments"
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        return str(node.GetID())

    def add_segment(self, node_id: str, name: str = "") -> Target:
        """Adds an empty segment."""
        segmentation = node_of(node_id, "segmentation").GetSegmentation()
        return Target(node_id, str(segmentation.AddEmptySegment("", name)))

    # Inside

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
        volume = node_of(volume_id, "volume")
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
        return image.GetMTime(), changed, tuple(ijk_to_ras_of(node).ravel().tolist())

    def _segment(self, target: Target) -> tuple[Any, Any]:
        node = node_of(target.node_id, "segmentation")
        segment = node.GetSegmentation().GetSegment(target.segment_id)
        if segment is None:
            raise SceneGone("The segment was deleted: choose another.")
        return node, segment

    def _segment_matrix(self, target: Target, grid: Grid) -> NDArray[np.float64]:
        """The matrix of the volume's voxels in the coordinates of a segmentation."""
        volume = node_of(grid.volume_id, "volume")
        node = node_of(target.node_id, "segmentation")
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


def _voxels(volume: Any) -> NDArray[Any]:
    image = volume.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise SceneError(f"Volume {volume.GetName()} is empty: choose another.")
    return voxels_of(image)
