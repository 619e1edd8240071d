"""Slice views, and what the user draws in them: points, boxes, regions of interest."""

from collections.abc import Callable, Sequence
from typing import Any, Optional

import numpy as np
import slicer
import vtk
from numpy.typing import ArrayLike, NDArray

from .geometry import Slice, box_of_corners, slice_of_plane
from .images import array_of
from .masks import Grid, SceneError
from .nodes import ijk_to_ras_of, node_of

_SIDE_MM = 10.0


class Views:
    """The slice views of the scene that Slicer shows now, and at most one pen in them."""

    def __init__(self) -> None:
        self._pen = ""  # id of the markups that the mouse draws

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
        node = node_of(volume_id, "volume")
        between = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
            None, node.GetParentTransformNode(), between
        )
        local = np.array(
            [between.TransformPoint(*map(float, point)) for point in np.asarray(world)]
        )
        inverse = np.linalg.inv(ijk_to_ras_of(node))
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
        roi = node_of(roi_id, "region of interest")
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
        plane = array_of(node_of(view_id, "view").GetSliceToRAS())
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
        volume = node_of(volume_id, "volume")
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


def _last_point(markups: Any) -> NDArray[np.float64]:
    position = [0.0, 0.0, 0.0]
    markups.GetNthControlPointPositionWorld(markups.GetNumberOfControlPoints() - 1, position)
    return np.array(position)
