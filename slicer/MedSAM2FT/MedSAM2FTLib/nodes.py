"""Finds the scene's nodes (MRML) by their ids.

The user may delete a node at any time, so that no node is held on to: what is gone raises
``SceneGone``.
"""

from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray

from .images import array_of
from .masks import SceneGone


def node_of(node_id: str, what: str) -> Any:
    """Returns a node.

    Args:
        node_id: As the scene names it; may be empty.
        what: The kind of node, for the message.

    Raises:
        SceneGone: There is none with this id.
    """
    node = slicer.mrmlScene.GetNodeByID(node_id) if node_id else None
    if node is None:
        raise SceneGone(f"The {what} was deleted: choose another.")
    return node


def ijk_to_ras_of(volume: Any) -> NDArray[np.float64]:
    """Returns the matrix from a volume's ``(i, j, k)`` to millimetres, without its transforms."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return array_of(matrix)
