"""The machinery of the controller: one request at a time, in the background, until it is through.

``controller`` has what the user can do; here is what becomes of a request: what was drawn by hand
goes first, a lost session is opened again, and a failure leaves everything as it was.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Optional

from .client import Client, LostSession, ServerError, Stopped, TimedOut, Unreachable
from .geometry import Slice
from .masks import Masks, SceneError
from .remote import RemoteSession
from .state import (
    CONNECTED,
    OFFLINE,
    OPENING,
    PROPAGATING,
    READY,
    WORKING,
    Again,
    Choice,
    Doing,
    Request,
    Status,
    Then,
)
from .steps import Patch, Prompts, Step, Steps
from .wire import WireError, region_to_json
from .worker import Outcome, Report, Worker

YIELD_S = 0.005
"""Qt's loop keeps Python's lock: this long each tick the background thread gets it."""
TICK_S = 0.05
"""After so long a tick leaves the rest for the next one."""
CLOSE_S = 2.0


class Flow:
    """Runs requests of one user.

    Args:
        scene: ``scene.Scene``, or what tests put in its place.
        idle_s: Pause after which a heartbeat is sent.
    """

    def __init__(self, scene: Any, idle_s: float) -> None:
        self.scene = scene
        self.status = Status()
        self.steps = Steps()
        self.prompts: Prompts = ()
        self.choice: Optional[Choice] = None
        self.masks: Optional[Masks] = None
        self.client: Optional[Client] = None
        self.session: Optional[RemoteSession] = None
        self.cancelled = threading.Event()
        self.stopped = threading.Event()
        self.looked: Optional[Slice] = None
        self._doing: Optional[Doing] = None
        self._reopening = False
        self._waiting: list[Again] = []
        self._worker = Worker(self._heartbeat, idle_s)

    def say(self, message: str, state: Optional[str] = None, *, failed: bool = False) -> None:
        """Sets what the panel shows."""
        self.status = Status(state or self.status.state, message, failed)

    def start(self, message: str, state: str, work: Any, doing: Doing) -> None:
        """Runs work in the background; only one request at a time comes here."""
        self.say(message, state)
        doing.task = self._worker.start(work)
        self._doing = doing

    def open_session(self, then: Again) -> None:
        """Sends the volume, first or again; what the segments hold goes along."""
        client, choice = self.client, self.choice
        assert client is not None
        assert choice is not None
        try:
            voxels, grid = self.scene.read_volume(choice.volume_id, choice.frame)
            if self.masks is None or self.masks.grid.shape != grid.shape:
                self.masks, self.prompts, self.steps = Masks(self.scene, grid), (), Steps()
            self.masks.grid = grid
            drawn = self.masks.whole()
        except SceneError as error:
            self.forget()
            self.say(str(error), CONNECTED, failed=True)
            return
        kept = {region["object_id"] for region in drawn}
        prompts = self.prompts = tuple(said for said in self.prompts if said.object_id in kept)
        session = RemoteSession(client, choice.to_json(grid, voxels.shape, voxels.dtype.name))
        cancelled = self.cancelled = threading.Event()

        def work(report: Report) -> None:
            def progress(done: int, total: int) -> None:
                report("progress", (done, total, None))

            session.open(voxels, progress, cancelled.is_set)
            for said in prompts:
                session.prompt(said)
            for region in drawn:
                session.edit([region])

        def opened(_: Any) -> None:
            self.session, self.looked = session, None
            self.steps.forget_server()
            self.say("Ready: draw a box, or click on the object.", READY)
            then()

        rest = READY if self.status.state == READY else CONNECTED
        self.start("Sending the volume ...", OPENING, work, Doing(0, opened, rest))

    def act(
        self,
        message: str,
        build: Callable[[Masks], tuple[Request, Then]],
        again: Again,
        state: str = WORKING,
    ) -> None:
        """Sends a request about the session, after what was drawn by hand meanwhile.

        Args:
            message: Shown while it runs.
            build: Makes request and what follows, once the session is known to be usable.
            again: Asks for all of it once more, after the session was opened again.
            state: While it runs.
        """
        if self.status.state in (OPENING, WORKING):
            self._waiting.append(again)  # a click while the last one is still on its way
            return
        masks = self.ready()
        if masks is None:
            return
        if self.session is None:
            self.open_session(again)
            return
        session = self.session
        try:
            request, then = build(masks)
            drawn = masks.drawn()
            gone = [i for i in masks.gone() if masks.held(i).any() or self._is_said(i)]
        except SceneError as error:
            self.say(str(error), READY, failed=True)
            return
        edits = [
            region_to_json(patch.object_id, patch.mask(after=True), [p.start for p in patch.box])
            for patch in drawn
        ]

        cancelled = self.cancelled = threading.Event()

        def work(report: Report) -> Any:
            if edits:
                session.edit(edits)
                report("edited", None)
            for object_id in gone:
                report("removed", (object_id, session.remove(object_id)))
            return request(session, report, cancelled.is_set)

        self.start(message, state, work, Doing(0, then, READY, again, drawn))

    def ready(self) -> Optional[Masks]:
        """Returns the session's masks where a request can be made; else says why not."""
        if self.masks is None:
            self.say("Choose a volume and press Send first.", failed=True)
            return None
        if self.status.state != READY:
            if self.status.state == PROPAGATING:
                self.status.message = "Wait for the end of the propagation, or cancel it."
            return None
        try:
            if self.scene.volume_stamp(self.masks.grid) != self.masks.grid.stamp:
                self.drop_session()  # the server has other voxels than Slicer
        except SceneError as error:
            self.forget()
            self.say(str(error), CONNECTED, failed=True)
            return None
        return self.masks

    def record(self, patches: Sequence[Patch], prompts: Prompts) -> None:
        """Notes a step that Undo takes back."""
        self.steps.push(Step(self.prompts, prompts, tuple(patches)))
        self.prompts = prompts

    def drop_session(self) -> None:
        """Gives the server's session back; the segments stay and can go on with another."""
        session, self.session = self.session, None
        if session is not None:
            self._worker.start(lambda _: session.release())

    def forget(self) -> None:
        """Gives up volume and session; the segments stay."""
        self.drop_session()
        self.cancelled.set()
        self._doing = None
        self._waiting.clear()
        self.masks, self.choice, self.prompts, self.steps = None, None, (), Steps()
        if self.status.state not in (OFFLINE, CONNECTED):
            self.say("", CONNECTED if self.client is not None else OFFLINE)

    def tick(self) -> bool:
        """Fetches what came from the background; call it about every 50 ms.

        Returns:
            Whether anything came.
        """
        time.sleep(YIELD_S)
        end, any_came = time.monotonic() + TICK_S, False
        while time.monotonic() < end:
            try:
                outcome = self._worker.outcomes.get_nowait()
            except queue.Empty:
                break
            any_came = True
            try:
                self._take(outcome)
            except (SceneError, WireError) as error:
                self._doing = None
                self.drop_session()  # what it holds is not what Slicer shows any more
                self.say(str(error), CONNECTED if self.masks is None else READY, failed=True)
        return any_came

    def close(self) -> None:
        """Gives the session back and ends the background thread."""
        self.stopped.set()
        self.forget()
        self._worker.close(CLOSE_S)

    def _heartbeat(self) -> None:
        session = self.session
        if session is not None and session.client.lease:
            session.heartbeat()

    def _is_said(self, object_id: int) -> bool:
        return any(said.object_id == object_id for said in self.prompts)

    def _take(self, outcome: Outcome) -> None:
        doing = self._doing
        if doing is None or outcome.task != doing.task:
            if isinstance(outcome.value, LostSession) and self._doing is None:
                self._lost()
            return
        if outcome.kind == "progress":
            self.status.done, self.status.total, self.status.eta_s = outcome.value
        elif outcome.kind == "edited":
            self.record(doing.drawn, self.prompts)
            doing.drawn = []
        elif outcome.kind == "removed":
            self._removed(*outcome.value)
        elif outcome.kind == "regions":
            assert self.masks is not None
            doing.patches += self.masks.apply(outcome.value)
        elif outcome.kind == "done":
            self._doing = None
            self._reopening = self._reopening and doing.again is None
            if doing.patches:
                self.record(doing.patches, self.prompts)
            doing.then(outcome.value)
            if self._waiting and self.status.state == READY:
                self._waiting.pop(0)()
        else:
            self._doing = None
            self._failed(doing, outcome.value)

    def _removed(self, object_id: int, answer: dict[str, Any]) -> None:
        """A segment was deleted, and the server has heard of it."""
        assert self.masks is not None
        left = tuple(said for said in self.prompts if said.object_id != object_id)
        self.record(self.masks.apply(answer["regions"]), left)

    def _failed(self, doing: Doing, error: Exception) -> None:
        self._waiting.clear()
        if self.masks is not None and doing.drawn:
            self.masks.take_back(doing.drawn)
        if doing.patches:
            self.record(doing.patches, self.prompts)
        if isinstance(error, LostSession) and doing.rest == READY:
            self._lost()
            if doing.again is not None and not doing.patches and not self._reopening:
                self._reopening = True
                doing.again()
            return
        if doing.rest == CONNECTED:
            self.masks, self.choice = None, None
        elif isinstance(error, (Unreachable, TimedOut)):
            self.drop_session()  # the server may have done it all the same: open another
        known = isinstance(error, (ServerError, WireError, SceneError))
        text = str(error) if known else f"This is a defect of the module: {error!r}"
        self.say(text, doing.rest, failed=not isinstance(error, Stopped))

    def _lost(self) -> None:
        self.session = None
        if self.masks is not None:
            self.say(
                "The server has lost the session; your segments stay. The volume is sent again "
                "with the next prompt.",
                READY,
                failed=True,
            )
