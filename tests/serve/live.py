"""A server on a free port, and a client that knows the standard library only."""

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn
from numpy.typing import NDArray

from medsam2_ft.serve import wire
from medsam2_ft.serve.api import create_app
from medsam2_ft.serve.engine import Engine
from medsam2_ft.serve.settings import Settings

WAIT_S = 60.0


@dataclass
class Answer:
    status: int
    body: bytes
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One user."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self.base = f"http://127.0.0.1:{port}/api/v1"
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.session = ""
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, method=method)
        fields = self.headers | headers
        if data is not None and not isinstance(body, bytes):
            fields["Content-Type"] = "application/json"
        for name, value in fields.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with self.opener.open(request, timeout=WAIT_S) as answer:
                return Answer(answer.status, answer.read(), answer.headers)
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read(), error.headers)

    def open(self, **asked: Any) -> Answer:
        answer = self.call("POST", "/sessions", asked)
        if answer.status == 201:
            self.session = f"/sessions/{answer.json['session_id']}"
            self.headers["X-Lease"] = answer.json["lease"]
        return answer

    def upload(self, image: NDArray[Any], **asked: Any) -> Any:
        answer = self.open(shape=list(image.shape), dtype=image.dtype.name, **asked)
        assert answer.status == 201, answer.body
        for number, body, digest in wire.pack_chunks(image, answer.json["chunk_bytes"]):
            last = self.call("PUT", f"{self.session}/data/{number}", body, X_SHA256=digest)
        return self.finish(last)

    def prompt(self, **said: Any) -> Any:
        said = {"object_id": 1, "axis": 0, **said}
        return self.finish(self.call("POST", f"{self.session}/prompts", said))

    def finish(self, answer: Answer) -> Any:
        """The result, also where it comes as a job."""
        assert answer.status in (200, 201, 202), answer.body
        if answer.status != 202:
            return answer.json
        job = answer.json
        while job["state"] in ("queued", "running"):
            job = self.call("GET", f"/jobs/{job['job_id']}").json
        assert job["state"] == "done", job
        return job["result"]

    def follow(self, job_id: str, volumes: dict[int, NDArray[np.bool_]]) -> Any:
        """Polls a propagation to its end, applying what changed."""
        after = 0
        while True:
            job = self.call("GET", f"/jobs/{job_id}?after={after}").json
            after = job["next"]
            for region in job["regions"]:
                wire.apply_region(volumes[region["object_id"]], region)
            if job["state"] not in ("queued", "running") and not job["remaining"]:
                return job


@contextmanager
def running(engine: Engine, settings: Settings, *, page: bool = False) -> Iterator[int]:
    """Yields the port of a real server; one with a page at a time."""
    app = create_app(engine, settings)
    if page:
        from medsam2_ft.serve.ui.page import mount  # loads Gradio, which takes seconds

        mount(app)
    # with the protocol named, as `medsam2-ft serve` does, so that no answer waits for Nagle's delay
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)  # so that clients wait for the server to come up
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(WAIT_S)
            assert not thread.is_alive()
