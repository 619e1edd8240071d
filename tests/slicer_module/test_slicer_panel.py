"""The panel with stand-ins for Qt's widgets: what is pressed reaches the server, and is shown."""

import importlib
import sys
import unittest
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from live import running
from test_slicer_geometry import GRIDS, SHAPE, oblique, roi_on, view_on, volume_of, world
from test_slicer_packaging import MODULE, UI

from medsam2_ft.serve.engine import FakeEngine
from medsam2_ft.serve.settings import Settings

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer_core", reason="slicer-core has wheels for Python 3.11 alone")


class Widget:
    """A widget as PythonQt gives it, as far as the panel uses it."""

    def __init__(self, slicer: Any, kind: str) -> None:
        self.slicer, self.kind = slicer, kind
        self.slots: dict[str, list[Callable[..., None]]] = {}
        self.text = "http://127.0.0.1:7860"
        self.value = self.maximum = 0
        self.checked = False
        self.enabled = True
        self.items: list[str] = []
        self.row = 0
        self.currentNodeID = ""
        self.selected: tuple[str, ...] = ()
        self.style = ""

    def connect(self, signal: str, slot: Callable[..., None]) -> None:
        self.slots.setdefault(signal.split("(")[0], []).append(slot)

    def emit(self, signal: str, *values: Any) -> None:
        for slot in self.slots.get(signal, ()):
            slot(*values)

    def press(self) -> None:
        assert self.enabled
        self.emit("clicked")

    def setChecked(self, on: bool) -> None:  # noqa: N802
        if self.checked != on:
            self.checked = on
            self.emit("toggled", on)

    def addItems(self, items: Any) -> None:  # noqa: N802
        assert isinstance(items, list)  # PythonQt takes no tuple for a QStringList
        self.items += items

    def clear(self) -> None:
        self.items = []

    def itemText(self, row: int) -> str:  # noqa: N802
        return self.items[row]

    @property
    def count(self) -> int:
        return len(self.items)

    @property
    def currentText(self) -> str:  # noqa: N802
        return self.items[self.row] if self.items else ""

    def currentNode(self) -> Any:  # noqa: N802
        return self.slicer.mrmlScene.GetNodeByID(self.currentNodeID)

    def setCurrentNodeID(self, node_id: str) -> None:  # noqa: N802
        self.currentNodeID = node_id
        self.emit("currentNodeChanged", self.currentNode())

    def setSegmentationNode(self, node: Any) -> None:  # noqa: N802
        self.selected = ()

    def selectedSegmentIDs(self) -> tuple[str, ...]:  # noqa: N802
        return self.selected

    def setSelectedSegmentIDs(self, ids: Any) -> None:  # noqa: N802
        self.selected = tuple(ids)

    def setEnabled(self, on: bool) -> None:  # noqa: N802
        self.enabled = on

    def setMaximum(self, value: int) -> None:  # noqa: N802
        self.maximum = value

    def setValue(self, value: int) -> None:  # noqa: N802
        self.value = min(value, self.maximum)

    def setText(self, text: str) -> None:  # noqa: N802
        self.text = text

    def setStyleSheet(self, style: str) -> None:  # noqa: N802
        self.style = style


class Panel:
    """The module's widget, and what a user does with it."""

    def __init__(self, slicer: Any, module: Any) -> None:
        self.slicer, self.module = slicer, module
        self.widget = module.MedSAM2FTWidget(MagicMock())
        self.widget.setup()
        self.ui = self.widget.ui

    def wait(self) -> None:
        for _ in range(2000):
            self.widget.onTick()
            if not self.widget.controller.is_busy:
                return
        raise AssertionError(self.ui.messageLabel.text)

    def start(self, port: int, volume: Any) -> None:
        self.ui.urlEdit.text, self.ui.tokenEdit.text = f"127.0.0.1:{port}", ""
        self.ui.testButton.press()
        self.wait()
        self.ui.volumeSelector.setCurrentNodeID(volume.GetID())
        self.ui.sendButton.press()
        self.wait()

    def draw(self, first: Any, second: Any) -> None:
        """The two clicks of a box, as Slicer reports them."""
        self.ui.boxButton.setChecked(True)
        (roi,) = [
            node
            for node in self.slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
            if node.GetName() == "MedSAM2-FT box"
        ]
        roi.AddControlPoint(*first)
        roi.SetNthControlPointPosition(0, *((np.array(first) + second) / 2))
        roi.InvokeEvent(self.slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent)
        self.wait()

    def click(self, button: Any, point: Any) -> None:
        button.setChecked(True)
        (points,) = self.slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
        points.AddControlPoint(*point)
        self.wait()

    def mask(self, number: int = 0) -> Any:
        node_id = self.ui.segmentationSelector.currentNodeID
        segmentation = self.slicer.mrmlScene.GetNodeByID(node_id).GetSegmentation()
        target = sys.modules["MedSAM2FTLib.masks"].Target(
            node_id, segmentation.GetNthSegmentID(number)
        )
        return self.widget.scene.read_segment(target, self.widget.controller.masks.grid)


@pytest.fixture
def panel(slicer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Panel]:
    timer = SimpleNamespace(singleShot=lambda _, slot: slot())
    qt = MagicMock()
    qt.QTimer.singleShot = timer.singleShot
    qt.QSettings.return_value.value.return_value = None
    monkeypatch.setitem(sys.modules, "qt", qt)
    names = {str(w.get("name")): str(w.get("class")) for w in ET.parse(UI).iter("widget")}
    ui = SimpleNamespace(**{name: Widget(slicer, kind) for name, kind in names.items()})
    for entries in ET.parse(UI).iter("widget"):
        ui.__dict__[str(entries.get("name"))].items = [
            str(text.text) for text in entries.findall("./item/property/string")
        ]

    def load(path: str) -> MagicMock:
        assert Path(path) == UI
        return MagicMock()

    monkeypatch.setattr(slicer.util, "loadUI", load)
    monkeypatch.setattr(slicer.util, "childWidgetVariables", lambda _: ui)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda _: False)
    sys.modules.pop("MedSAM2FT", None)
    one = Panel(slicer, importlib.import_module("MedSAM2FT"))
    yield one
    one.widget.cleanup()
    assert one.widget.controller.session is None


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    settings = Settings(work_dir=tmp_path / "work", accept_dir=tmp_path / "cases")
    with running(FakeEngine(), settings) as number:
        yield number


def test_a_case_from_the_first_press_to_the_last(
    slicer: Any, panel: Panel, port: int, tmp_path: Path
) -> None:
    ui, matrix = panel.ui, oblique(0)
    volume = volume_of(slicer, matrix)
    assert not ui.sendButton.enabled
    assert not ui.boxButton.enabled
    panel.start(port, volume)
    assert "Ready" in ui.messageLabel.text
    assert ui.modelCombo.items == ["fake"]
    assert ui.boxButton.enabled
    view_on(slicer, matrix, 0, 3)
    first, second = world(matrix, [[2.2, 1.9, 3], [6.8, 5.1, 3]])
    panel.draw(first, second)
    assert not ui.boxButton.checked
    assert not list(slicer.util.getNodesByClass("vtkMRMLMarkupsROINode"))
    expected = np.zeros(SHAPE, bool)
    expected[3, 2:6, 2:8] = True
    assert np.array_equal(panel.mask(), expected)
    assert (ui.firstSpin.value, ui.lastSpin.value) == (0, SHAPE[0] - 1)
    ui.firstButton.press()
    assert ui.firstSpin.value == 3
    ui.lastSpin.setValue(4)
    ui.propagateButton.press()
    panel.wait()
    expected[4] = expected[3]
    assert np.array_equal(panel.mask(), expected)
    assert ui.progressBar.maximum >= 1
    panel.click(ui.negativeButton, world(matrix, [3, 3, 3]))
    panel.click(ui.positiveButton, world(matrix, [9, 7, 3]))
    assert not ui.negativeButton.checked
    expected[3, 2:5, 2:5] = False
    expected[3, 6:9, 8:11] = True
    assert np.array_equal(panel.mask(), expected)
    ui.undoButton.press()
    panel.wait()
    ui.redoButton.press()
    panel.wait()
    assert np.array_equal(panel.mask(), expected)
    ui.acceptButton.press()
    panel.wait()
    assert "Saved on the server" in ui.messageLabel.text
    assert len(list((tmp_path / "cases").glob("*.npz"))) == 1


def test_a_region_of_interest_gives_box_and_range(slicer: Any, panel: Panel, port: int) -> None:
    matrix = GRIDS[13].values[0]
    panel.start(port, volume_of(slicer, matrix))
    view = view_on(slicer, matrix, 1, 0)
    panel.widget._view = view.GetID()
    panel.ui.roiSelector.currentNodeID = roi_on(slicer, matrix).GetID()
    panel.ui.roiButton.press()
    panel.wait()
    expected = np.zeros(SHAPE, bool)
    expected[1:5, 4, 2:9] = True
    assert np.array_equal(panel.mask(), expected)
    assert (panel.ui.firstSpin.value, panel.ui.lastSpin.value) == (3, 6)
    panel.ui.propagateButton.press()
    panel.wait()
    expected[1:5, 3:7, 2:9] = True
    assert np.array_equal(panel.mask(), expected)


def test_what_the_user_can_repair_is_said(slicer: Any, panel: Panel, port: int) -> None:
    ui = panel.ui
    ui.sendButton.enabled = True
    ui.sendButton.press()
    assert "volume was deleted" in ui.messageLabel.text
    panel.start(port, volume_of(slicer, oblique(1)))
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    ui.propagateButton.press()
    panel.widget.onTick()
    assert "Draw a box" in ui.messageLabel.text
    panel.draw((500, 500, 500), (510, 510, 500))
    assert "no slice view" in ui.messageLabel.text
    panel.draw((0, 0, 0), (10, 10, 0))
    assert "Align views" in ui.messageLabel.text
    assert ui.messageLabel.style
    ui.roiButton.press()
    assert "region of interest was deleted" in ui.messageLabel.text


def test_windows_and_lists_reach_the_server(slicer: Any, panel: Panel, port: int) -> None:
    ui = panel.ui
    ui.windowCombo.row = ui.windowCombo.items.index("CT bone")
    ui.modalityCombo.row = ui.modalityCombo.items.index("CT")
    ui.strategyCombo.row = ui.strategyCombo.items.index("memory")
    panel.start(port, volume_of(slicer, oblique(1)))
    session = panel.widget.controller.session
    found = session.client.call("GET", session.path).json
    assert (found["intensity"]["lower"], found["intensity"]["upper"]) == (-500, 1300)
    assert found["strategy"] == "memory"
    assert session.asked["modality"] == "CT"
    display = slicer.mrmlScene.GetNodeByID(ui.volumeSelector.currentNodeID).GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(50, 100)
    ui.windowCombo.row = ui.windowCombo.items.index("as shown in Slicer")
    ui.sendButton.press()
    panel.wait()
    session = panel.widget.controller.session
    assert session.asked["window"] == [75, 125]


def test_frames_are_offered(slicer: Any, panel: Panel, port: int) -> None:
    from test_slicer_scene import sequence_of

    volume, browser = sequence_of(slicer, np.zeros((3, *SHAPE), np.int16), oblique(1))
    panel.ui.volumeSelector.setCurrentNodeID(volume.GetID())
    assert (panel.ui.frameSpin.enabled, panel.ui.frameSpin.maximum) == (True, 2)
    panel.ui.frameSpin.setValue(2)
    panel.start(port, volume)
    assert browser.GetSelectedItemNumber() == 2
    assert panel.widget.controller.choice.frame == 2


def test_closing_the_scene_ends_the_session(slicer: Any, panel: Panel, port: int) -> None:
    panel.start(port, volume_of(slicer, oblique(1)))
    slicer.mrmlScene.Clear(True)
    panel.widget.onTick()
    assert panel.widget.controller.session is None
    assert not panel.ui.boxButton.enabled


def test_the_modules_own_tests_pass(slicer: Any) -> None:
    """Those that Slicer runs with 'Reload and Test'."""
    sys.path.insert(0, str(MODULE / "Testing" / "Python"))
    tests = importlib.import_module("MedSAM2FTSceneTest")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(tests).run(result)
    assert result.testsRun == 4
    assert not [*result.failures, *result.errors]
