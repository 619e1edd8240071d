"""What the user can do, without Qt. Every method returns at once; see ``flow`` for what follows."""

from collections.abc import Callable, Sequence
from typing import Any, Optional

from .client import Client, ServerError, is_loopback
from .flow import Flow
from .geometry import Slice
from .masks import Masks, SceneError, Target
from .remote import RemoteSession
from .state import (
    CONNECTED,
    OFFLINE,
    OPENING,
    PROPAGATING,
    READY,
    WORKING,
    Choice,
    Doing,
    Request,
    Then,
)
from .steps import Said, with_prompt
from .worker import Report

_NO_MODEL = "The server has no model: run 'medsam2-ft weights' there, then press Test."


class Controller(Flow):
    """Server, volume and segments of one user.

    Args:
        scene: ``scene.Scene``, or what tests put in its place.
        ask: Asks the user a question; True is yes.
        idle_s: Pause after which a heartbeat is sent.
    """

    def __init__(
        self, scene: Any, ask: Callable[[str], bool] = lambda _: False, idle_s: float = 20.0
    ) -> None:
        super().__init__(scene, idle_s)
        self.ask = ask
        self.capabilities: dict[str, Any] = {}
        self._consent: set[str] = set()

    @property
    def can_undo(self) -> bool:
        """Whether Undo would do something now."""
        return self.status.state == READY and bool(self.steps.done)

    @property
    def can_redo(self) -> bool:
        """Whether Redo would do something now."""
        return self.status.state == READY and bool(self.steps.undone)

    @property
    def is_busy(self) -> bool:
        """Whether a request runs."""
        return self.status.state in (OPENING, WORKING, PROPAGATING)

    def connect(self, url: str, token: str = "") -> None:
        """Looks for the server."""
        if self.is_busy:
            return
        self.forget()
        try:
            client = Client(url, token, stop=self.stopped)
        except ServerError as error:
            self.say(str(error), OFFLINE, failed=True)
            return
        self.client, self.capabilities = client, {}
        message = f"Asking {client.url} ..."
        doing = Doing(0, self._connected, OFFLINE)
        self.start(message, WORKING, lambda _: client.capabilities(), doing)

    def _connected(self, found: dict[str, Any]) -> None:
        self.capabilities = found
        if not found.get("models"):
            self.say(_NO_MODEL, CONNECTED, failed=True)
            return
        names = ", ".join(str(model["id"]) for model in found["models"])
        told = f"Connected to medsam2-ft {found['version']} on {found['device']}: {names}."
        self.say(f"{told} {found['notice']}", CONNECTED)

    def open(self, choice: Choice) -> None:
        """Sends a volume; the user is asked where it would leave this computer."""
        client = self.client
        if self.is_busy:
            return
        if client is None or self.status.state == OFFLINE:
            self.say("There is no server yet: press Test.", OFFLINE, failed=True)
        elif not self.capabilities.get("models"):
            self.say(_NO_MODEL, failed=True)
        elif not self._may_send(client):
            self.say("Nothing was sent.")
        else:
            self.forget()
            self.choice = choice
            self.open_session(lambda: None)

    def _may_send(self, client: Client) -> bool:
        if is_loopback(client.url) or client.url in self._consent:
            return True
        plain = "" if client.url.startswith("https") else "The connection is not encrypted. "
        question = (
            f"The image will leave this computer: it is sent to {client.url}. {plain}"
            "Go on only if you may send it there."
        )
        if self.ask(question):
            self._consent.add(client.url)
        return client.url in self._consent

    def prompt_box(self, target: Target, on: Slice, box: Sequence[int]) -> None:
        """Segments a slice by a box, in the place of all that was said about that slice."""
        x0, y0, x1, y1 = box
        self._prompt(target, on, lambda _: ((x0, y0, x1, y1), ()))

    def prompt_point(self, target: Target, on: Slice, point: Sequence[int], label: int) -> None:
        """Corrects a slice by one more point: 1 lies on the object, 0 does not."""
        x, y = point

        def more(earlier: Optional[Said]) -> Any:
            box, points = (None, ()) if earlier is None else (earlier.box, earlier.points)
            return box, (*points, (x, y, label))

        self._prompt(target, on, more)

    def _prompt(self, target: Target, on: Slice, content: Callable[[Optional[Said]], Any]) -> None:
        def build(masks: Masks) -> tuple[Request, Then]:
            object_id = masks.object_of(target)
            key = (object_id, on.axis, on.index)
            earlier = next((said for said in self.prompts if said.key == key), None)
            box, points = content(earlier)
            said = Said(object_id, on.axis, on.index, box, points)

            def then(answer: dict[str, Any]) -> None:
                patches = masks.apply(answer["regions"])
                self.record(patches, with_prompt(self.prompts, said))
                self.say(f"{answer['voxels']} pixels on slice {on.index}.", READY)

            return lambda session, *_: session.prompt(said), then

        again = lambda: self._prompt(target, on, content)
        self.act("Segmenting the slice ...", build, again)

    def look(self, on: Slice) -> None:
        """Lets the server encode the slice that is shown, so that a prompt there is quick."""
        session = self.session
        if session is None or self.status.state != READY or on == self.looked:
            return
        self.looked = on
        self._worker.start(lambda _: session.view(on.axis, on.index))

    def propagate(
        self,
        targets: Sequence[Target],
        axis: int,
        slices: Optional[tuple[int, int]] = None,
        direction: str = "both",
    ) -> None:
        """Carries segments through the volume.

        Args:
            targets: Which; empty for all that have a prompt on this axis.
            axis: Along which.
            slices: First and last slice; None is all.
            direction: ``forward``, ``backward`` or ``both``.
        """

        def build(masks: Masks) -> tuple[Request, Then]:
            asked = {
                "objects": [masks.object_of(target) for target in targets] or None,
                "axis": axis,
                "range": None if slices is None else sorted(slices),
                "direction": direction,
            }

            def request(
                session: RemoteSession, report: Report, cancelled: Callable[[], bool]
            ) -> str:
                def progress(job: dict[str, Any]) -> None:
                    report("progress", (job["done"], job["total"], job["eta_s"]))
                    if job["regions"]:
                        report("regions", job["regions"])

                return session.propagate(asked, progress, cancelled)

            return request, lambda state: self._propagated(str(state))

        again = lambda: self.propagate(targets, axis, slices, direction)
        self.act("Propagating ...", build, again, PROPAGATING)

    def _propagated(self, state: str) -> None:
        self.say("Cancelled; what was found stays." if state == "cancelled" else "Done.", READY)

    def cancel(self) -> None:
        """Ends an upload or a propagation between two steps."""
        self.cancelled.set()

    def undo(self) -> None:
        """Takes the last step back; what was drawn by hand since then is a step of its own."""
        if self.ready() is None or not self.steps.done:
            return
        if self.session is None or not self.steps.server_can_undo:
            self._alone(undo=True)
            return

        def build(masks: Masks) -> tuple[Request, Then]:
            def then(answer: dict[str, Any]) -> None:
                masks.apply(answer["regions"])
                self.prompts = self.steps.undo().said_before
                self.say("Undone.", READY)

            return lambda session, *_: session.undo(), then

        self.act("Undoing ...", build, self.undo)

    def redo(self) -> None:
        """Does again what was taken back."""
        masks = self.ready()
        if masks is None or not self.steps.undone:
            return
        if self.session is None:
            self._alone(undo=False)
            return

        def build(masks: Masks) -> tuple[Request, Then]:
            def then(answer: dict[str, Any]) -> None:
                masks.apply(answer["regions"])
                self.prompts = self.steps.redo().said_after
                self.say("Done again.", READY)

            return lambda session, *_: session.redo(), then

        self.act("Doing it again ...", build, self.redo)

    def _alone(self, *, undo: bool) -> None:
        """Undo and redo of steps that the server does not know, from what was kept here."""
        assert self.masks is not None
        self.drop_session()  # it would hold what is no longer true; the next prompt opens another
        step = self.steps.undo() if undo else self.steps.redo()
        self.prompts = step.said_before if undo else step.said_after
        try:
            self.masks.restore(step.patches, after=not undo)
            self.say("Undone." if undo else "Done again.", READY)
        except SceneError as error:
            self.say(str(error), READY, failed=True)

    def accept(self) -> None:
        """Lets the server save image and segments as a training case."""

        def build(masks: Masks) -> tuple[Request, Then]:
            names = {i: self.scene.segment_name(t) for i, t in masks.targets.items()}

            def then(answer: dict[str, Any]) -> None:
                self.say(f"Saved on the server as {answer['case']}.", READY)

            return lambda session, *_: session.accept(names), then

        self.act("Saving the case ...", build, self.accept)
