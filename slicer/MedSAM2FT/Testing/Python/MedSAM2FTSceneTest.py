"""Runs within Slicer, without a server: a box comes to its voxels, a mask to its place."""

import unittest
from pathlib import Path
from typing import Any

import numpy as np
import slicer

SHAPE = (5, 7, 9)


class MedSAM2FTSceneTest(unittest.TestCase):
    """The parts of the module that depend on the version of Slicer."""

    def setUp(self) -> None:
        import sys

        sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
        from MedSAM2FTLib.scene import Scene
        from MedSAM2FTLib.views import Views

        slicer.mrmlScene.Clear(0)
        self.scene = Scene()
        self.views = Views()
        matrix = np.array([[0, -0.7, 0, 3], [0, 0, 1.3, -4], [10, 0, 0, 5], [0, 0, 0, 1.0]])
        self.matrix = matrix
        voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
        self.volume = slicer.util.addVolumeFromArray(voxels, matrix, "volume")
        self.voxels, self.grid = self.scene.read_volume(self.volume.GetID(), None)

    def world(self, ijk: Any) -> Any:
        return np.asarray(ijk, float) @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def test_voxels_are_read(self) -> None:
        self.assertTrue(np.array_equal(self.voxels, slicer.util.arrayFromVolume(self.volume)))
        self.assertEqual(self.grid.shape, SHAPE)

    def test_a_region_of_interest_is_its_voxels(self) -> None:
        roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
        low, high = np.array([1.5, 2.5, 0.5]), np.array([6.5, 4.5, 3.5])
        corners = self.world([low, high])
        roi.SetCenter(*corners.mean(axis=0))
        roi.SetSize(*np.abs(corners[1] - corners[0]))
        box = self.views.roi_box(roi.GetID(), self.grid)
        self.assertEqual(box.tolist(), [[2, 3, 1], [6, 4, 3]])

    def test_segments_overlap_and_keep_what_they_hold(self) -> None:
        node_id = self.scene.new_segmentation(self.volume.GetID())
        rng = np.random.default_rng(0)
        masks = {self.scene.add_segment(node_id, name): rng.random(SHAPE) < 0.4 for name in "abc"}
        nothing = np.zeros(SHAPE, bool)
        for target, mask in masks.items():
            self.scene.write_segment(target, self.grid, (0, 0, 0), mask, nothing)
        for target, mask in masks.items():
            self.assertTrue(np.array_equal(self.scene.read_segment(target, self.grid), mask))
            node = slicer.mrmlScene.GetNodeByID(node_id)
            array = slicer.util.arrayFromSegmentBinaryLabelmap(node, target.segment_id, self.volume)
            self.assertTrue(np.array_equal(array > 0, mask))
            self.scene.write_segment(target, self.grid, (0, 0, 0), nothing, mask)
            self.assertFalse(self.scene.read_segment(target, self.grid).any())

    def test_a_view_shows_its_slice(self) -> None:
        views = list(slicer.util.getNodesByClass("vtkMRMLSliceNode"))
        if not views:
            self.skipTest("no slice views in this application")
        self.views.align_views(self.volume.GetID())
        for view in views:
            view.JumpSlice(*self.world([4, 3, 2]))
            on = self.views.slice_in(view.GetID(), self.grid)
            self.assertEqual(on.index, (2, 3, 4)[on.axis])


if __name__ == "__main__":
    unittest.main()
