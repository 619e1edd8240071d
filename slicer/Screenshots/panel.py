"""Draws panel.png from the module's .ui file, without Slicer: pip install PySide6-Essentials.

QT_QPA_PLATFORM=offscreen python panel.py. What Slicer's own widgets would show is left to plain
ones; the picture says so.
"""

from pathlib import Path
from typing import Any

from PySide6.QtCore import QFile, Qt
from PySide6.QtGui import QColor, QPainter, QPixmap
from PySide6.QtUiTools import QUiLoader
from PySide6.QtWidgets import QApplication, QComboBox, QGroupBox, QListWidget, QWidget

HERE = Path(__file__).resolve().parent
SHOWN = {"modalityCombo": "CT", "windowCombo": "CT soft tissue", "modelCombo": "liver-run/best",
         "strategyCombo": "the model's own"}  # fmt: skip
CHOSEN = {"volumeSelector": "CTChest", "segmentationSelector": "CTChest segments",
          "roiSelector": "None"}  # fmt: skip
NOTE = "Drawn from the .ui file, without 3D Slicer."


class Loader(QUiLoader):
    """Puts plain widgets in the place of Slicer's."""

    def createWidget(self, kind: str, parent: Any = None, name: str = "") -> QWidget:  # noqa: N802
        """Makes one widget."""
        if kind == "ctkCollapsibleButton":
            made: QWidget = QGroupBox(parent)
        elif kind == "qMRMLNodeComboBox":
            made = QComboBox(parent)
            made.addItem(CHOSEN[name])
        elif kind == "qMRMLSegmentsTableView":
            made = QListWidget(parent)
            made.addItems(["liver", "tumour"])
            made.setMaximumHeight(60)
        elif kind == "qMRMLWidget":
            made = QWidget(parent)
        else:
            return super().createWidget(kind, parent, name)
        made.setObjectName(name)
        return made


def main() -> None:
    """Draws it."""
    app = QApplication([])
    ui = HERE.parent / "MedSAM2FT" / "Resources" / "UI" / "MedSAM2FT.ui"
    file = QFile(str(ui))
    file.open(QFile.OpenModeFlag.ReadOnly)
    panel = Loader().load(file)
    titles = {box.objectName(): box for box in panel.findChildren(QGroupBox)}
    for name, title in {"serverBox": "Server", "volumeBox": "Volume", "segmentsBox": "Segments",
                        "promptBox": "Prompt", "propagateBox": "Propagate"}.items():  # fmt: skip
        titles[name].setTitle(title)
    for name, text in SHOWN.items():
        panel.findChild(QComboBox, name).addItem(text)
    panel.resize(430, panel.sizeHint().height())
    panel.show()
    app.processEvents()
    picture = QPixmap(panel.width(), panel.height() + 22)
    picture.fill(QColor("#fff3cd"))
    painter = QPainter(picture)
    painter.drawPixmap(0, 22, panel.grab())
    painter.setPen(QColor("#664d03"))
    painter.drawText(6, 0, panel.width(), 22, Qt.AlignmentFlag.AlignVCenter, NOTE)
    painter.end()
    picture.save(str(HERE / "panel.png"))


main()
