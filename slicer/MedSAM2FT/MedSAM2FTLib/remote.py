"""A session on the server, as the background thread drives it."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Optional

from numpy.typing import NDArray

from .client import Answer, Client, ServerError, Stopped, TimedOut, Unreachable
from .steps import Said
from .wire import pack_chunks

POLL_S = 0.3
RESENT = 3
"""How often a chunk or a poll is sent before the connection counts as broken."""

Progress = Callable[[int, int], None]


class RemoteSession:
    """Opens a session, uploads the image, and speaks of it.

    Args:
        client: Whose lease becomes that of this session.
        asked: Body of POST /sessions.
    """

    def __init__(self, client: Client, asked: dict[str, Any]) -> None:
        self.client = client
        self.asked = asked
        self.path = ""

    def open(
        self, voxels: NDArray[Any], progress: Progress, cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """Uploads the image; returns the server's description of the session.

        Raises:
            ServerError: It cannot be had; nothing is left on the server then.
        """
        self.client.lease = ""
        opened = self.client.call("POST", "/sessions", self.asked).json
        self.client.lease = str(opened["lease"])
        self.path = f"/sessions/{opened['session_id']}"
        last: Optional[Answer] = None
        try:
            for number, body, digest in pack_chunks(voxels, int(opened["chunk_bytes"])):
                if cancelled():
                    raise Stopped("The upload was cancelled.")
                last = self._chunk(number, body, digest, is_last=number + 1 == opened["chunks"])
                progress(number + 1, int(opened["chunks"]))
            if last is None:
                raise ServerError("The volume has no voxels: choose another.")
            return dict(self.result(last))
        except ServerError:
            self.release()
            raise

    def _chunk(self, number: int, body: bytes, digest: str, *, is_last: bool) -> Answer:
        """Sends a chunk, again where the line broke: only the last one cannot come twice."""
        for attempt in range(RESENT):
            try:
                path = f"{self.path}/data/{number}"
                return self.client.call("PUT", path, body, {"X-SHA256": digest})
            except (Unreachable, TimedOut):
                if is_last or attempt + 1 == RESENT or self.client.stop.wait(POLL_S):
                    raise
        raise AssertionError("unreachable")

    def prompt(self, said: Said) -> dict[str, Any]:
        """Segments or corrects a slice."""
        return self._change("POST", "/prompts", said.to_json())

    def edit(self, regions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Tells the server what the user drew by hand."""
        return self._change("POST", "/edits", {"regions": list(regions)})

    def remove(self, object_id: int) -> dict[str, Any]:
        """Removes an object."""
        return self._change("DELETE", f"/objects/{object_id}")

    def undo(self) -> dict[str, Any]:
        """Takes the last step back."""
        return self._change("POST", "/undo")

    def redo(self) -> dict[str, Any]:
        """Does again what was taken back."""
        return self._change("POST", "/redo")

    def accept(self, names: dict[int, str]) -> dict[str, Any]:
        """Saves image and masks as a training case."""
        named = {str(object_id): name[:100] for object_id, name in names.items() if name}
        return self._change("POST", "/accept", {"names": named})

    def view(self, axis: int, index: int) -> None:
        """Lets the server encode a slice ahead."""
        self.client.call("POST", self.path + "/view", {"axis": axis, "index": index})

    def heartbeat(self) -> None:
        """Keeps the session alive."""
        self.client.call("POST", self.path + "/heartbeat")

    def release(self) -> None:
        """Gives the session back; a server that is gone has done so already."""
        with suppress(ServerError):
            self.client.call("DELETE", self.path)
        self.client.lease = ""

    def propagate(
        self,
        asked: dict[str, Any],
        on_progress: Callable[[dict[str, Any]], None],
        cancelled: Callable[[], bool],
    ) -> str:
        """Carries objects through the volume.

        Args:
            asked: Body of POST /propagate.
            on_progress: Gets every poll's answer.
            cancelled: Once true, it ends between two slices; what was found stays.

        Returns:
            ``done`` or ``cancelled``.

        Raises:
            ServerError: It failed.
        """
        job = self.client.call("POST", self.path + "/propagate", asked).json
        after, told = 0, False
        while True:
            if cancelled() and not told:
                self.client.call("DELETE", f"/jobs/{job['job_id']}")
                told = True
            polled = self._poll(f"/jobs/{job['job_id']}?after={after}")
            after = int(polled["next"])
            on_progress(polled)
            if polled["state"] not in ("queued", "running") and not polled["remaining"]:
                break
            if not polled["remaining"] and self.client.stop.wait(POLL_S):
                raise Stopped("Stopped.")
        if polled["problem"] is not None:
            raise _failure(polled["problem"])
        return str(polled["state"])

    def result(self, answer: Answer) -> Any:
        """Returns what a request answers, also where that takes long.

        Raises:
            ServerError: It failed.
        """
        fields = answer.json
        if answer.status != 202:
            return fields
        while fields["state"] in ("queued", "running"):
            if self.client.stop.wait(POLL_S):
                raise Stopped("Stopped.")
            fields = self._poll(f"/jobs/{fields['job_id']}")
        if fields["problem"] is not None:
            raise _failure(fields["problem"])
        if fields["state"] != "done":
            raise ServerError("The server cancelled it: try again.")
        return fields["result"]

    def _poll(self, path: str) -> dict[str, Any]:
        for attempt in range(RESENT):
            try:
                return dict(self.client.call("GET", path).json)
            except (TimedOut, Unreachable):
                if attempt + 1 == RESENT or self.client.stop.wait(POLL_S):
                    raise
        raise AssertionError("unreachable")

    def _change(
        self, method: str, path: str, body: Optional[dict[str, Any]] = None
    ) -> dict[str, Any]:
        return dict(self.result(self.client.call(method, self.path + path, body)))


def _failure(problem: dict[str, Any]) -> ServerError:
    text = " ".join(f"{problem.get('detail', '')} {problem.get('hint', '')}".split())
    return ServerError(text or "The server failed.", int(problem.get("status", 0)))
