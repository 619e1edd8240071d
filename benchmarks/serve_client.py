"""One user of the load test: scripted sessions whose content is only theirs."""

import http.client
import json
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from medsam2_ft.serve import wire

SHAPE: Final = (16, 96, 112)
POLL_S: Final = 0.1
TIMEOUT_S: Final = 30.0
EXPECTED: Final = frozenset({200, 201, 202, 204, 503})


class WrongAnswerError(AssertionError):
    """The server answered what it must not."""


@dataclass
class Measured:
    """What the users of one run saw.

    Attributes:
        answers: How often each status came.
        seconds: Duration of each request by kind; of a prompt until its mask is there.
        sessions: That ran to their end.
        problems: What went wrong.
    """

    answers: Counter[int] = field(default_factory=Counter)
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sessions: int = 0
    problems: list[str] = field(default_factory=list)


class LoadUser:
    """Works against a server until a time.

    Args:
        port: Of the server.
        number: Seeds all content.
        measured: Where to note what happens; of this user alone.
    """

    def __init__(self, port: int, number: int, measured: Measured) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        self.number = number
        self.rng = np.random.default_rng(number)
        self.measured = measured
        self.lease = ""

    def call(self, kind: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Sends one request and checks that its status is one that is allowed."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"X-Lease": self.lease}
        if data is not None and not isinstance(body, bytes):
            headers["Content-Type"] = "application/json"
        started = time.perf_counter()
        self.connection.request(method, f"/api/v1{path}", data, headers)
        answer = self.connection.getresponse()
        content = answer.read()
        self.measured.seconds[kind].append(time.perf_counter() - started)
        self.measured.answers[answer.status] += 1
        if answer.status not in EXPECTED:
            raise WrongAnswerError(f"{method} {path}: {answer.status} {content[:200]!r}")
        if answer.status == 503:
            pause = answer.headers.get("Retry-After", "")
            if not pause.isdecimal():
                raise WrongAnswerError(f"{method} {path}: 503 without Retry-After")
            return 503, float(pause)
        return answer.status, json.loads(content) if content else None

    def result(self, kind: str, method: str, path: str, body: Any = None) -> Any:
        """The result of a request, also where it is busy at first or comes as a job."""
        status, found = self.call(kind, method, path, body)
        while status == 503:
            time.sleep(found)
            status, found = self.call(kind, method, path, body)
        while status == 202 and found["state"] in ("queued", "running"):
            time.sleep(POLL_S)
            _, found = self.call("poll", "GET", f"/jobs/{found['job_id']}")
        if status == 202 and found["state"] != "done":
            raise WrongAnswerError(f"{path}: {found['state']} {found['problem']}")
        return found["result"] if status == 202 else found

    def run(self, until: float) -> None:
        """Runs sessions one after another; what goes wrong is noted and ends the user."""
        try:
            while time.monotonic() < until:
                self.session(until)
                self.measured.sessions += 1
        except (WrongAnswerError, OSError, wire.WireError, http.client.HTTPException) as error:
            self.measured.problems.append(f"user {self.number}: {error!r}")
        finally:
            self.connection.close()

    def session(self, until: float) -> None:
        """Opens, uploads, prompts, propagates, corrects, undoes, looks and releases."""
        image = self.rng.integers(0, 256, SHAPE, dtype=np.uint8)
        matrix = np.eye(4)
        matrix[:3, 3] = self.rng.integers(-1000, 1000, 3)
        asked = {"shape": list(SHAPE), "dtype": "uint8", "ijk_to_lps": matrix.tolist()}
        status, opened = self.call("open", "POST", "/sessions", asked)
        if status == 503:  # full: come again, but not after the end
            time.sleep(min(opened, max(0.0, until - time.monotonic())))
            return
        self.lease = opened["lease"]
        path = f"/sessions/{opened['session_id']}"
        for number, body, _ in wire.pack_chunks(image, opened["chunk_bytes"]):
            described = self.result("upload", "PUT", f"{path}/data/{number}", body)
        if described["ijk_to_lps"] != matrix.tolist():
            raise WrongAnswerError("a session has the matrix of another one")
        held = self.work(path)
        self.check(path, held)
        self.call("release", "DELETE", path)
        self.lease = ""

    def work(self, path: str) -> NDArray[np.bool_]:
        """Prompts and propagates; returns object 1 as the answers say that it is."""
        held = np.zeros(SHAPE, np.bool_)

        def take(change: Any) -> None:
            for region in change["regions"]:
                if region["object_id"] == 1:
                    wire.apply_region(held, region)

        drawn = self.rng.random(SHAPE) < 0.5
        drawn[4:12] = False
        edit = {"regions": [wire.region_to_json(1, drawn, (0, 0, 0))]}
        take(self.result("edit", "POST", f"{path}/edits", edit))
        for index in (8, 5):
            self.call("view", "POST", f"{path}/view", {"axis": 0, "index": index})
            x, y = (int(side) for side in self.rng.integers(5, 50, 2))
            said = {"object_id": 1, "axis": 0, "index": index, "box": [x, y, x + 40, y + 30]}
            take(self.prompt(path, said))
            take(self.prompt(path, {**said, "points": [[x + 20, y + 15]], "labels": [1]}))
        self.propagate(path, {"objects": [1], "axis": 0, "range": [4, 11]}, take)
        take(self.result("undo", "POST", f"{path}/undo"))
        take(self.result("redo", "POST", f"{path}/redo"))
        self.call("heartbeat", "POST", f"{path}/heartbeat")
        return held

    def prompt(self, path: str, said: dict[str, Any]) -> Any:
        """One prompt; its time counts until the mask is there."""
        started = time.perf_counter()
        found = self.result("prompt request", "POST", f"{path}/prompts", said)
        self.measured.seconds["prompt"].append(time.perf_counter() - started)
        return found

    def propagate(self, path: str, asked: dict[str, Any], take: Any) -> None:
        """One propagation, polled to its end."""
        started, after = time.perf_counter(), 0
        status, job = self.call("propagate request", "POST", f"{path}/propagate", asked)
        while status == 503:
            time.sleep(job)
            status, job = self.call("propagate request", "POST", f"{path}/propagate", asked)
        while True:
            _, polled = self.call("poll", "GET", f"/jobs/{job['job_id']}?after={after}")
            after = polled["next"]
            take(polled)
            if polled["state"] not in ("queued", "running") and not polled["remaining"]:
                break
            time.sleep(POLL_S)
        if polled["state"] != "done":
            raise WrongAnswerError(f"propagation: {polled['state']} {polled['problem']}")
        self.measured.seconds["propagation"].append(time.perf_counter() - started)

    def check(self, path: str, held: NDArray[np.bool_]) -> None:
        """Compares all masks of the session with what this user was told and drew."""
        found = np.zeros(SHAPE, np.bool_)
        bits = self.result("masks", "GET", f"{path}/masks?format=bits")
        for region in bits["regions"]:
            if region["object_id"] != 1:
                raise WrongAnswerError(
                    f"a session has an object of another one: {region['object_id']}"
                )
            wire.apply_region(found, region)
        if not np.array_equal(found, held):
            raise WrongAnswerError("a session has masks of another one")
