"""MedSAM2-FT in 3D Slicer: segments with a server that runs ``medsam2-ft serve``.

The panel is thin: in ``MedSAM2FTLib``, ``controller`` decides; ``scene`` and ``views`` know MRML.
"""

from typing import Any, Optional

import qt
import slicer
from MedSAM2FTLib import choices
from MedSAM2FTLib.controller import Controller
from MedSAM2FTLib.geometry import (
    GeometryError,
    Slice,
    box_of_clicks,
    box_on_slice,
    point_on_slice,
    range_of_box,
)
from MedSAM2FTLib.masks import SceneError, Target
from MedSAM2FTLib.scene import Scene
from MedSAM2FTLib.state import CONNECTED, OPENING, PROPAGATING, READY, Choice
from MedSAM2FTLib.views import Views
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

TICK_MS = 50
URL_KEY = "MedSAM2FT/url"
FIRST_VIEW = "vtkMRMLSliceNodeRed"


class MedSAM2FT(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "MedSAM2-FT"
        self.parent.categories = ["Segmentation"]
        self.parent.dependencies = ["Segmentations", "Markups", "Volumes"]
        self.parent.contributors = ["medsam2-ft maintainers"]
        self.parent.helpText = (
            "Segments volumes with fine-tuned SAM2 models of a server (<i>medsam2-ft serve</i>): "
            "draw a box or click, then propagate. Research use only. Not a medical device."
        )
        self.parent.acknowledgementText = "Apache-2.0. The models are SAM2's, fine-tuned or not."


class MedSAM2FTWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.scene = Scene()
        self.views = Views()
        self.controller = Controller(self.scene, slicer.util.confirmOkCancelDisplay)
        self._view = FIRST_VIEW
        self._last: Optional[Slice] = None
        self._shown: Any = None

    def setup(self) -> None:
        """Builds the panel from Resources/UI/MedSAM2FT.ui."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/MedSAM2FT.ui"))
        self.layout.addWidget(panel)
        self.ui = ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        ui.urlEdit.text = str(qt.QSettings().value(URL_KEY) or ui.urlEdit.text)
        ui.modalityCombo.addItems([choices.NO_MODALITY, *choices.MODALITIES])
        ui.windowCombo.addItems(list(choices.WINDOWS))
        ui.strategyCombo.addItems(list(choices.STRATEGIES))
        self._connect()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneClosing)
        self.timer = qt.QTimer()
        self.timer.setInterval(TICK_MS)
        self.timer.connect("timeout()", self.onTick)
        self.timer.start()
        self.onVolumeChanged()
        self.refresh()

    def _connect(self) -> None:
        ui = self.ui
        for button, pressed in (
            (ui.testButton, self.onTest),
            (ui.sendButton, self.onSend),
            (ui.addSegmentButton, self.onAddSegment),
            (ui.roiButton, self.onUseRoi),
            (ui.alignButton, self.onAlign),
            (ui.firstButton, self.onFirstHere),
            (ui.lastButton, self.onLastHere),
            (ui.propagateButton, self.onPropagate),
            (ui.cancelButton, self.controller.cancel),
            (ui.undoButton, self.controller.undo),
            (ui.redoButton, self.controller.redo),
            (ui.acceptButton, self.controller.accept),
        ):
            button.connect("clicked()", pressed)
        ui.boxButton.connect("toggled(bool)", self.onBox)
        ui.positiveButton.connect("toggled(bool)", lambda on: self.onPoints(1, on))
        ui.negativeButton.connect("toggled(bool)", lambda on: self.onPoints(0, on))
        ui.volumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onVolumeChanged)
        ui.segmentationSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onSegmentation)

    def cleanup(self) -> None:
        """Gives the session back when Slicer ends or reloads the module."""
        self.timer.stop()
        self.views.stop_drawing()
        self.removeObservers()
        self.controller.close()

    def onSceneClosing(self, _caller: Any = None, _event: Any = None) -> None:
        """The scene is emptied: nothing of the session can be used any more."""
        self.controller.forget()

    # Server and volume

    def onTest(self) -> None:
        """Looks for the server; the token is not saved."""
        qt.QSettings().setValue(URL_KEY, self.ui.urlEdit.text)
        self.controller.connect(self.ui.urlEdit.text, self.ui.tokenEdit.text)

    def onVolumeChanged(self, _node: Any = None) -> None:
        """Offers the frames of a 4-D volume."""
        self._try(self._offer_frames)

    def _offer_frames(self) -> None:
        volume_id = self.ui.volumeSelector.currentNodeID
        count = self.scene.frame_count(volume_id) if volume_id else 1
        self.ui.frameSpin.setMaximum(count - 1)
        self.ui.frameSpin.setEnabled(count > 1)

    def onSend(self) -> None:
        """Sends the chosen volume."""
        self._try(self._send)

    def _send(self) -> None:
        ui, volume_id = self.ui, self.ui.volumeSelector.currentNodeID
        frame = ui.frameSpin.value if self.scene.frame_count(volume_id) > 1 else None
        if frame is not None:
            self.scene.show_frame(volume_id, frame)
        window = choices.CT_WINDOWS.get(ui.windowCombo.currentText)
        if ui.windowCombo.currentText == choices.SHOWN_WINDOW:
            window = self.scene.shown_window(volume_id)
        modality = choices.modality_of(ui.modalityCombo.currentText)
        strategy = choices.strategy_of(ui.strategyCombo.currentText)
        model = ui.modelCombo.currentText or None
        self._last = None
        self.controller.open(Choice(volume_id, frame, window, modality, model, strategy))

    # Segments

    def onSegmentation(self, _node: Any = None) -> None:
        """Lists the segments of the chosen segmentation."""
        self.ui.segmentsTable.setSegmentationNode(self.ui.segmentationSelector.currentNode())

    def onAddSegment(self) -> None:
        """Adds a segment and selects it."""
        self._try(self._add_segment)

    def _add_segment(self) -> Target:
        ui = self.ui
        node_id = ui.segmentationSelector.currentNodeID
        if not node_id:
            node_id = self.scene.new_segmentation(ui.volumeSelector.currentNodeID)
            ui.segmentationSelector.setCurrentNodeID(node_id)
        target = self.scene.add_segment(node_id)
        ui.segmentsTable.setSelectedSegmentIDs([target.segment_id])
        return target

    def _targets(self) -> list[Target]:
        node_id = self.ui.segmentationSelector.currentNodeID
        chosen = self.ui.segmentsTable.selectedSegmentIDs() if node_id else ()
        return [Target(node_id, str(segment_id)) for segment_id in chosen]

    def _target(self) -> Target:
        """The segment that a prompt is about; a new one where none is selected."""
        return next(iter(self._targets()), None) or self._add_segment()

    # Prompts

    def onBox(self, on: bool) -> None:
        """Lets the user draw a box; the event must be over before its markup goes."""
        if not on:
            self.views.stop_drawing()
            return
        self._only(self.ui.boxButton)
        later = lambda corners: qt.QTimer.singleShot(0, lambda: self._try(self._box, corners))
        self._try(self.views.start_box, later)

    def _box(self, corners: Any) -> None:
        self.ui.boxButton.setChecked(False)
        grid = self._grid()
        self._view = self.views.view_at(corners.mean(axis=0), self.views.under_cursor())
        on = self.views.slice_in(self._view, grid)
        box = box_of_clicks(self.views.ijk_of(grid.volume_id, corners), grid.shape)
        self._prompted(on)
        self.controller.prompt_box(self._target(), on, box_on_slice(box, on.axis))

    def onPoints(self, label: int, on: bool) -> None:
        """Lets the user click, on the object or beside it."""
        if not on:
            self.views.stop_drawing()
            return
        self._only(self.ui.positiveButton if label else self.ui.negativeButton)
        later = lambda point: qt.QTimer.singleShot(0, lambda: self._try(self._point, point, label))
        self._try(self.views.start_points, later)

    def _point(self, point: Any, label: int) -> None:
        self.views.clear_points()
        grid = self._grid()
        self._view = self.views.view_at(point, self.views.under_cursor())
        on = self.views.slice_in(self._view, grid)
        pixel = point_on_slice(self.views.ijk_of(grid.volume_id, [point])[0], on, grid.shape)
        self._prompted(on)
        self.controller.prompt_point(self._target(), on, pixel, label)

    def onUseRoi(self) -> None:
        """Takes a region of interest: a box on the slice in its middle, and the range."""
        self._try(self._use_roi)

    def _use_roi(self) -> None:
        grid, roi_id = self._grid(), self.ui.roiSelector.currentNodeID
        box = self.views.roi_box(roi_id, grid)
        axis = self.views.slice_in(self._view, grid).axis
        first, last = range_of_box(box, axis)
        self._prompted(Slice(axis, (first + last) // 2))
        self.ui.firstSpin.setValue(first)
        self.ui.lastSpin.setValue(last)
        assert self._last is not None
        self.controller.prompt_box(self._target(), self._last, box_on_slice(box, axis))

    def onAlign(self) -> None:
        """Turns the views into the planes of the volume."""
        self._try(lambda: self.views.align_views(self.ui.volumeSelector.currentNodeID))

    def _only(self, button: Any) -> None:
        for other in (self.ui.boxButton, self.ui.positiveButton, self.ui.negativeButton):
            if other is not button:
                other.setChecked(False)

    def _grid(self) -> Any:
        if self.controller.masks is None:
            raise SceneError("Choose a volume and press Send first.")
        return self.controller.masks.grid

    def _prompted(self, on: Slice) -> None:
        """Remembers the slice; the range is all slices of a new axis."""
        if self._last is None or self._last.axis != on.axis:
            most = self._grid().shape[on.axis] - 1
            for spin in (self.ui.firstSpin, self.ui.lastSpin):
                spin.setMaximum(most)
            self.ui.firstSpin.setValue(0)
            self.ui.lastSpin.setValue(most)
        self._last = on

    # Propagation

    def onFirstHere(self) -> None:
        """The slice that is shown is the first of the range."""
        self._try(lambda: self.ui.firstSpin.setValue(self._here()))

    def onLastHere(self) -> None:
        """The slice that is shown is the last of the range."""
        self._try(lambda: self.ui.lastSpin.setValue(self._here()))

    def _here(self) -> int:
        here = self.views.slice_in(self._view, self._grid())
        if self._last is None or here.axis != self._last.axis:
            raise GeometryError("Prompt a slice of this view first: the range is along its axis.")
        return here.index

    def onPropagate(self) -> None:
        """Carries the selected segments that have a prompt, or all, through the range."""
        if self._last is None:
            self.controller.say("Draw a box or click first.", failed=True)
            return
        ui = self.ui
        slices = (ui.firstSpin.value, ui.lastSpin.value)
        direction = ui.directionCombo.currentText
        self.controller.propagate(self._targets(), self._last.axis, slices, direction)

    # The timer

    def onTick(self) -> None:
        """Fetches what came from the server, and tells it what is looked at."""
        self.controller.tick()
        if self.ui.boxButton.checked or self.ui.positiveButton.checked:
            self._look()
        self.refresh()

    def _look(self) -> None:
        view = self.views.under_cursor()
        if view is None or self.controller.masks is None:
            return
        try:
            self.controller.look(self.views.slice_in(view, self.controller.masks.grid))
        except (SceneError, GeometryError):
            return  # a tilted view is told when it is prompted

    def _try(self, action: Any, *arguments: Any) -> None:
        """Shows what the user can repair."""
        try:
            action(*arguments)
        except (SceneError, GeometryError) as error:
            self.controller.say(str(error), failed=True)
        self.refresh()

    def refresh(self) -> None:
        """Shows the controller's state; does nothing where it is the same."""
        controller, status = self.controller, self.controller.status
        models = [str(model["id"]) for model in controller.capabilities.get("models", [])]
        shown = (vars(status).copy(), models, controller.can_undo, controller.can_redo)
        if shown == self._shown:
            return
        self._shown = shown
        ui, ready = self.ui, status.state == READY
        if [ui.modelCombo.itemText(row) for row in range(ui.modelCombo.count)] != models:
            ui.modelCombo.clear()
            ui.modelCombo.addItems(models)
        ui.testButton.setEnabled(not controller.is_busy)
        ui.sendButton.setEnabled(status.state in (CONNECTED, READY))
        for button in (ui.boxButton, ui.positiveButton, ui.negativeButton, ui.roiButton,
                       ui.firstButton, ui.lastButton, ui.propagateButton):  # fmt: skip
            button.setEnabled(ready)
        ui.cancelButton.setEnabled(status.state in (OPENING, PROPAGATING))
        ui.undoButton.setEnabled(controller.can_undo)
        ui.redoButton.setEnabled(controller.can_redo)
        ui.acceptButton.setEnabled(ready and bool(controller.capabilities.get("accept")))
        ui.progressBar.setMaximum(max(1, status.total))
        ui.progressBar.setValue(status.done)
        left = "" if status.eta_s is None else f" {status.eta_s:.0f} s left."
        ui.messageLabel.setText(status.message + left)
        ui.messageLabel.setStyleSheet("color: #c0392b" if status.failed else "")


class MedSAM2FTTest(ScriptedLoadableModuleTest):
    """Slicer's own 'Reload and Test': the tests beside this file."""

    def runTest(self) -> None:
        """Runs them on an empty scene; needs no server."""
        import sys
        import unittest
        from pathlib import Path

        sys.path.insert(0, str(Path(__file__).parent / "Testing" / "Python"))
        import MedSAM2FTSceneTest

        slicer.mrmlScene.Clear()
        suite = unittest.defaultTestLoader.loadTestsFromModule(MedSAM2FTSceneTest)
        result = unittest.TextTestRunner().run(suite)
        if not result.wasSuccessful():
            raise AssertionError(f"{len(result.failures) + len(result.errors)} tests failed")
