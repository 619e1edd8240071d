"""The extension is complete: what CMake lists, what the panel names, what Python 3.9 reads."""

import ast
import json
import re
import struct
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from medsam2_ft.intensity import CT_WINDOWS
from medsam2_ft.serve.schemas import Modality, Strategy

ROOT = Path(__file__).resolve().parents[2] / "slicer"
MODULE = ROOT / "MedSAM2FT"
CODE = sorted(MODULE.rglob("*.py"))
UI = MODULE / "Resources" / "UI" / "MedSAM2FT.ui"
SCENE = {"nodes.py", "scene.py", "views.py"}
WIDGETS_OF_SLICER = {"slicer", "vtk", "qt", "ctk"}

pytestmark = pytest.mark.slicer


def listed(cmake: Path) -> set[str]:
    text = cmake.read_text(encoding="utf-8").replace("${MODULE_NAME}", "MedSAM2FT")
    return set(re.findall(r"[\w/]+\.(?:py|ui|png)", text))


def test_cmake_lists_every_file() -> None:
    kept = (MODULE / "Testing", MODULE / "Resources" / "UI" / "nothing")
    found = {
        str(path.relative_to(MODULE))
        for path in MODULE.rglob("*")
        if path.suffix in (".py", ".ui", ".png", ".svg", ".json")
        and not path.is_relative_to(kept[0])
    }
    assert listed(MODULE / "CMakeLists.txt") == found
    tests = {path.name for path in (MODULE / "Testing" / "Python").glob("*.py")}
    assert listed(MODULE / "Testing" / "Python" / "CMakeLists.txt") == tests
    assert "add_subdirectory(MedSAM2FT)" in (ROOT / "CMakeLists.txt").read_text()


def test_the_extension_says_what_slicer_asks_for() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    for name in ("HOMEPAGE", "CATEGORY", "CONTRIBUTORS", "DESCRIPTION", "ICONURL",
                 "SCREENSHOTURLS", "DEPENDS"):  # fmt: skip
        assert re.search(rf'set\(EXTENSION_{name} "[^"]+"\)', text), name
    for name in ("ICONURL", "SCREENSHOTURLS"):
        found = re.search(rf'EXTENSION_{name} "https://[^"]+/main/slicer/([^"]+)"', text)
        assert found is not None
        assert (ROOT / found[1]).is_file()
    assert "project(MedSAM2FT)" in text


def test_the_catalog_entry_is_one() -> None:
    """Schema 1.0.1: these fields and no others; three of them are needed."""
    entry = json.loads((ROOT / "MedSAM2FT.json").read_text(encoding="utf-8"))
    allowed = {"$schema", "build_dependencies", "build_subdirectory", "category", "enabled",
               "scm_revision", "scm_type", "scm_url", "tier"}  # fmt: skip
    assert {"$schema", "category", "scm_url"} <= entry.keys() <= allowed
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert entry["category"] == "Segmentation"
    assert re.fullmatch(r"https://\S+", entry["scm_url"])
    assert entry["scm_type"] in ("git", "local")
    assert entry["tier"] in (1, 3, 5)
    assert all(isinstance(name, str) for name in entry["build_dependencies"])


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    wide, high = struct.unpack(">II", head[16:24])
    return int(wide), int(high)


def test_icon_and_screenshot_are_pictures() -> None:
    assert png_size(MODULE / "Resources" / "Icons" / "MedSAM2FT.png") == (128, 128)
    assert min(png_size(ROOT / "Screenshots" / "panel.png")) >= 300


def test_the_panel_and_the_code_name_the_same_widgets() -> None:
    tree = ET.parse(UI)
    named = {str(widget.get("name")): str(widget.get("class")) for widget in tree.iter("widget")}
    used = set(re.findall(r"\bui\.(\w+)\.", (MODULE / "MedSAM2FT.py").read_text()))
    used |= set(re.findall(r"\bui\.(\w+)\b", (MODULE / "MedSAM2FT.py").read_text()))
    assert used <= named.keys()
    frames = {name for name in named if name.endswith(("Box", "Label")) or name == "MedSAM2FT"}
    assert named.keys() - used <= frames
    assert all(widget.find("./property[@name='toolTip']") is not None
               for widget in tree.iter("widget")
               if widget.get("name") in used - {"progressBar", "messageLabel"})  # fmt: skip


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_python_3_9_reads_it_and_it_brings_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add(str(node.module).split(".")[0])
        # evaluated when the file is read, where 3.9 has no | between types
        assert not isinstance(node, ast.Match)
    own = {"MedSAM2FTLib", "MedSAM2FTSceneTest"}
    others = imported - sys.stdlib_module_names - own - {"numpy"}
    mrml = path.name in {*SCENE, "images.py", "MedSAM2FT.py", "MedSAM2FTSceneTest.py"}
    assert others <= (WIDGETS_OF_SLICER if mrml else set())
    assert "pip" not in imported
    assert "pip_install" not in path.read_text()


def test_no_type_is_joined_by_a_bar_where_python_3_9_would_look() -> None:
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            notes = []
            if isinstance(node, ast.AnnAssign):
                notes = [node.annotation]
            elif isinstance(node, ast.FunctionDef):
                notes = [a.annotation for a in node.args.args + node.args.kwonlyargs]
                notes.append(node.returns)
            for note in filter(None, notes):
                joined = [n for n in ast.walk(note) if isinstance(n, ast.BinOp)]
                assert not joined, (path.name, node.lineno)


def test_only_three_files_know_the_scene() -> None:
    """Nodes are got and made there; the panel only hands the scene over."""
    for path in (MODULE / "MedSAM2FTLib").glob("*.py"):
        text = path.read_text()
        if path.name not in SCENE:
            assert "vtkMRML" not in text, path.name
            assert "mrmlScene" not in text, path.name
        if path.name not in {*SCENE, "images.py"}:
            assert "import slicer" not in text, path.name
        assert "import qt" not in text, path.name


def test_the_codec_is_the_servers() -> None:
    from medsam2_ft.serve import wire

    assert (MODULE / "MedSAM2FTLib" / "wire.py").read_bytes() == Path(wire.__file__).read_bytes()


def test_the_lists_offer_what_the_server_takes() -> None:
    sys.path.insert(0, str(MODULE))
    from MedSAM2FTLib import choices

    assert set(choices.MODALITIES) == set(Modality.__args__)
    assert {choices.strategy_of(text) for text in choices.STRATEGIES} == {
        None, *Strategy.__args__,
    }  # fmt: skip
    ours = {
        f"CT {name.replace('_', ' ')}": (level - width / 2, level + width / 2)
        for name, (level, width) in CT_WINDOWS.items()
    }
    assert dict(choices.CT_WINDOWS) == ours
