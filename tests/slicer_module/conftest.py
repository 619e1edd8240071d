"""A scene of Slicer without Slicer: PyPI's ``slicer-core``, and stand-ins for Qt.

The folder must not be called ``slicer``: that package takes in modules of folders of its name.
"""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "slicer" / "MedSAM2FT"
for folder in (MODULE, ROOT / "tests" / "serve"):
    sys.path.insert(0, str(folder))


def _shims(slicer: Any) -> None:
    """What Slicer's application adds to the package."""

    class Module:
        def __init__(self, parent: Any) -> None:
            self.parent = parent

    class Widget:
        def __init__(self, parent: Any = None) -> None:
            self.parent = parent
            self.layout = MagicMock()

        def setup(self) -> None:
            pass

        def resourcePath(self, name: str) -> str:  # noqa: N802
            return str(MODULE / "Resources" / name)

    shim = types.ModuleType("slicer.ScriptedLoadableModule")
    shim.ScriptedLoadableModule = Module  # type: ignore[attr-defined]
    shim.ScriptedLoadableModuleWidget = Widget  # type: ignore[attr-defined]
    shim.ScriptedLoadableModuleTest = object  # type: ignore[attr-defined]
    sys.modules["slicer.ScriptedLoadableModule"] = shim
    slicer.ScriptedLoadableModule = shim
    sys.modules.setdefault("qt", MagicMock())
    sys.modules.setdefault("ctk", MagicMock())


@pytest.fixture
def slicer() -> Iterator[Any]:
    """The package, with an empty scene and its logics."""
    pytest.importorskip("slicer_core", reason="slicer-core has wheels for Python 3.11 alone")
    import slicer.util

    import slicer

    _shims(slicer)
    scene = slicer.vtkMRMLScene()
    app = slicer.vtkSlicerApplicationLogic()
    app.SetMRMLScene(scene)
    slicer.mrmlScene = scene
    slicer.modules = types.SimpleNamespace()
    logics = {
        "Volumes": slicer.vtkSlicerVolumesLogic,
        "Segmentations": slicer.vtkSlicerSegmentationsModuleLogic,
        "Markups": slicer.vtkSlicerMarkupsLogic,
        "SubjectHierarchy": slicer.vtkSlicerSubjectHierarchyModuleLogic,
        "Sequences": slicer.vtkSlicerSequencesLogic,
    }
    for name, kind in logics.items():
        logic = kind()
        logic.SetMRMLApplicationLogic(app)
        logic.SetMRMLScene(scene)
        app.SetModuleLogic(name, logic)
        setattr(slicer.modules, name.lower(), types.SimpleNamespace(logic=lambda it=logic: it))
    for kind in ("vtkMRMLSelectionNode", "vtkMRMLInteractionNode"):
        node = slicer.mrmlScene.CreateNodeByClass(kind)
        node.SetSingletonTag("Singleton")
        scene.AddNode(node)
    slicer.app = app
    yield slicer
    scene.Clear(True)


@pytest.fixture
def scene(slicer: Any) -> Any:
    from MedSAM2FTLib.scene import Scene

    return Scene()


@pytest.fixture
def views(slicer: Any) -> Any:
    from MedSAM2FTLib.views import Views

    return Views()
