"""What a user does, without a panel: the controller, a scene and a real server."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

WAIT_S = 60.0


class User:
    """One Slicer with one volume and segments."""

    def __init__(self, scene: Any, port: int, **settings: Any) -> None:
        from MedSAM2FTLib.controller import Controller
        from MedSAM2FTLib.views import Views

        self.scene = scene
        self.views = Views()
        self.controller = Controller(scene, **settings)
        self.url = f"http://127.0.0.1:{port}"
        self.node_id = ""

    @property
    def said(self) -> str:
        return str(self.controller.status.message)

    @property
    def state(self) -> str:
        return str(self.controller.status.state)

    def wait(self, until: Any = None) -> None:
        """Ticks as the panel's timer does, until nothing runs."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            self.controller.tick()
            if until() if until is not None else not self.controller.is_busy:
                return
        raise AssertionError(self.controller.status)

    def connect(self, token: str = "") -> None:
        self.controller.connect(self.url, token)
        self.wait()

    def send(self, volume: Any, **choice: Any) -> None:
        from MedSAM2FTLib.state import Choice

        self.connect()
        self.controller.open(Choice(volume.GetID(), **choice))
        self.wait()
        assert self.state == "ready", self.said

    def segment(self, name: str = "liver") -> Any:
        if not self.node_id:
            self.node_id = self.scene.new_segmentation(self.grid.volume_id)
        return self.scene.add_segment(self.node_id, name)

    @property
    def grid(self) -> Any:
        assert self.controller.masks is not None
        return self.controller.masks.grid

    def box(self, target: Any, axis: int, index: int, box: Any) -> None:
        from MedSAM2FTLib.geometry import Slice

        self.controller.prompt_box(target, Slice(axis, index), box)
        self.done()

    def point(self, target: Any, axis: int, index: int, point: Any, label: int) -> None:
        from MedSAM2FTLib.geometry import Slice

        self.controller.prompt_point(target, Slice(axis, index), point, label)
        self.done()

    def propagate(self, targets: Any, axis: int, slices: Any = None, **how: Any) -> None:
        self.controller.propagate(targets, axis, slices, **how)
        self.done()

    def undo(self) -> None:
        self.controller.undo()
        self.done()

    def redo(self) -> None:
        self.controller.redo()
        self.done()

    def done(self) -> None:
        self.wait()
        assert not self.controller.status.failed, self.said

    def mask(self, target: Any) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.scene.read_segment(target, self.grid)
        return found

    def paint(self, target: Any, mask: NDArray[np.bool_]) -> None:
        """What the Segment Editor does: the segment is this mask now."""
        before = self.mask(target)
        self.scene.write_segment(target, self.grid, (0, 0, 0), mask & ~before, before & ~mask)

    def servers(self, target: Any) -> NDArray[np.bool_]:
        """The mask as the server has it, asked for by a way that the module does not use."""
        from MedSAM2FTLib import wire

        session, masks = self.controller.session, self.controller.masks
        assert session is not None
        assert masks is not None
        bits = session.result(session.client.call("GET", f"{session.path}/masks?format=bits"))
        volume = np.zeros(self.grid.shape, bool)
        object_id = next(i for i, known in masks.targets.items() if known == target)
        for region in bits["regions"]:
            if region["object_id"] == object_id:
                wire.apply_region(volume, region)
        return volume
