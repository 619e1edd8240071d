"""What goes wrong between Slicer and the server, and what the user is told."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver import User
from live import WAIT_S, running
from test_slicer_geometry import SHAPE, oblique, volume_of
from test_slicer_session import IMAGE, filled

from medsam2_ft.serve.backend import FakeBackend
from medsam2_ft.serve.engine import FakeEngine, ModelEngine
from medsam2_ft.serve.registry import Registry
from medsam2_ft.serve.settings import Settings

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer_core", reason="slicer-core has wheels for Python 3.11 alone")


@contextmanager
def answering(reply: Callable[[Any], None]) -> Iterator[int]:
    """A server of another kind."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            reply(self)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def send(handler: Any, status: int, fields: Any, **headers: str) -> None:
    body = json.dumps(fields).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def told(scene: Any, port: int, **how: Any) -> str:
    """What Test says; it must be one line and an error."""
    user = User(scene, port)
    user.connect(**how)
    assert user.controller.status.failed
    assert "\n" not in user.said
    user.controller.close()
    return user.said


def test_no_server(scene: Any) -> None:
    with answering(lambda _: None) as port:
        pass
    assert "medsam2-ft serve" in told(scene, port)


@pytest.mark.parametrize("url", ["", "http://", "ftp://a", "http://a b", "http://a:99999"])
def test_no_address(scene: Any, url: str) -> None:
    user = User(scene, 0)
    user.controller.connect(url)
    assert "is no address" in user.said
    user.controller.close()


def test_a_wrong_token(scene: Any, tmp_path: Path) -> None:
    with running(FakeEngine(), Settings(work_dir=tmp_path, token="secret")) as port:
        assert "refuses the token" in told(scene, port)
        assert "refuses the token" in told(scene, port, token="other")
        user = User(scene, port)
        user.connect("secret")
        assert user.state == "connected"
        assert "fake" in user.said
        user.controller.close()


def test_no_model(slicer: Any, scene: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from MedSAM2FTLib.state import Choice

    monkeypatch.setenv("MEDSAM2FT_CHECKPOINTS", str(tmp_path / "none"))
    with running(ModelEngine(Registry(), device="cpu"), Settings(work_dir=tmp_path)) as port:
        assert "medsam2-ft weights" in told(scene, port)
        user = User(scene, port)
        user.connect()
        user.controller.open(Choice(volume_of(slicer, oblique(0), IMAGE).GetID()))
        assert "medsam2-ft weights" in user.said
        user.controller.close()


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (lambda it: send(it, 200, ["x"]), "speaks protocol None"),
        (lambda it: send(it, 200, {"protocol": 2}), "same version"),
        (lambda it: send(it, 302, {}, Location="http://elsewhere.test/"), "another address"),
        (lambda it: send(it, 500, {"detail": "The server made a mistake."}), "made a mistake"),
        (lambda it: it.wfile.write(b"nonsense\r\n\r\n"), "does not speak HTTP"),
        (lambda it: it.connection.close(), "try again"),
    ],
    ids=["list", "protocol", "redirect", "500", "noise", "closed"],
)
def test_another_server(scene: Any, reply: Callable[[Any], None], says: str) -> None:
    with answering(reply) as port:
        assert says in told(scene, port)


def test_a_server_that_does_not_answer(scene: Any) -> None:
    from MedSAM2FTLib.client import Client, TimedOut

    with answering(lambda _: time.sleep(2)) as port:
        client = Client(f"http://127.0.0.1:{port}", timeout_s=0.3)
        with pytest.raises(TimedOut, match="not answered within"):
            client.call("GET", "/health")


def test_a_proxy_is_not_used_on_this_machine(scene: Any, monkeypatch: Any) -> None:
    """Hospitals set HTTP_PROXY; the proxy cannot reach the user's own machine."""
    from MedSAM2FTLib.client import Client

    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with answering(lambda it: send(it, 200, {"protocol": 1})) as port:
        assert Client(f"http://127.0.0.1:{port}").call("GET", "/health").json == {"protocol": 1}


def test_a_busy_server_is_asked_again(scene: Any) -> None:
    from MedSAM2FTLib.client import RETRIES, Client, ServerError

    asked: list[float] = []

    def reply(handler: Any) -> None:
        asked.append(time.monotonic())
        if len(asked) < 3:
            send(handler, 503, {"detail": "Full.", "hint": "Later."}, Retry_After="1")
        else:
            send(handler, 200, {})

    with answering(reply) as port:
        Client(f"http://127.0.0.1:{port}").call("GET", "/x")
    assert len(asked) == 3
    assert asked[2] - asked[0] >= 1.9
    asked.clear()

    def full(handler: Any) -> None:
        asked.append(0)
        send(handler, 503, {"detail": "Full.", "hint": "Later."}, Retry_After="0")

    with answering(full) as port, pytest.raises(ServerError, match=r"Full\. Later\."):
        Client(f"http://127.0.0.1:{port}").call("GET", "/x")
    assert len(asked) == RETRIES + 1


def test_a_volume_that_is_too_large(slicer: Any, scene: Any, tmp_path: Path) -> None:
    from MedSAM2FTLib.state import Choice

    with running(FakeEngine(), Settings(work_dir=tmp_path, max_voxels=10)) as port:
        user = User(scene, port)
        user.connect()
        user.controller.open(Choice(volume_of(slicer, oblique(0), IMAGE).GetID()))
        user.wait()
        assert user.controller.status.failed
        assert "Crop or resample" in user.said
        assert user.state == "connected"
        user.controller.close()


@pytest.mark.parametrize("answer", [False, True])
def test_the_user_is_asked_before_data_leaves_the_machine(
    slicer: Any, scene: Any, monkeypatch: Any, answer: bool
) -> None:
    """To a server elsewhere nothing but the look-up goes before the user agrees; then it goes."""
    from MedSAM2FTLib import client
    from MedSAM2FTLib.state import Choice

    sent: list[tuple[str, str]] = []
    asked: list[str] = []

    def call(self: Any, method: str, path: str, *_: Any) -> Any:
        sent.append((method, path))
        if path == "/health":
            return client.Answer(200, b'{"protocol": 1}')
        if path == "/capabilities":
            found = {"models": [{"id": "m"}], "version": "1", "device": "cpu", "notice": "."}
            return client.Answer(200, json.dumps(found).encode())
        raise client.ServerError("stopped here")

    monkeypatch.setattr(client.Client, "call", call)

    def ask(text: str) -> bool:
        asked.append(text)
        return answer

    user = User(scene, 0, ask=ask)
    user.url = "http://gpu.example.org:7860"
    user.connect()
    user.controller.open(Choice(volume_of(slicer, oblique(0), IMAGE).GetID()))
    user.wait()
    assert len(asked) == 1
    assert "gpu.example.org" in asked[0]
    assert "not encrypted" in asked[0]
    assert (("POST", "/sessions") in sent) == answer
    user.controller.close()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timed(slicer: Any, scene: Any, tmp_path: Path) -> Iterator[tuple[User, Clock]]:
    clock = Clock()
    settings = Settings(work_dir=tmp_path, idle_s=100.0, heartbeat_s=30.0, clock=clock)
    with running(FakeEngine(), settings) as port:
        user = User(scene, port)
        user.send(volume_of(slicer, oblique(0), IMAGE))
        yield user, clock
        user.controller.close()


def test_a_session_that_expired_is_opened_again(timed: tuple[User, Clock]) -> None:
    """Segments, prompts and Undo survive; the next click needs no second thought."""
    user, clock = timed
    target = user.segment()
    user.box(target, 0, 3, [1, 2, 4, 5])
    user.propagate([target], 0, (2, 4))
    painted = user.mask(target)
    painted[6, 8, 10] = True
    user.paint(target, painted)
    clock.now += 1000
    user.point(target, 0, 3, [8, 7], 1)
    expected = painted.copy()
    expected[3, 6:9, 7:10] = True
    assert np.array_equal(user.mask(target), expected)
    assert np.array_equal(user.servers(target), expected)
    user.undo()
    assert np.array_equal(user.mask(target), painted)
    user.undo()  # a step that the new session does not know
    assert np.array_equal(user.mask(target)[:6], filled((3, 3), (2, 5), (1, 4))[:6])
    user.redo()
    assert np.array_equal(user.mask(target), painted)
    user.propagate([target], 0, (3, 5))
    assert user.mask(target)[5, 2:6, 1:5].all()
    assert np.array_equal(user.servers(target), user.mask(target))


def test_heartbeats_keep_a_session(slicer: Any, scene: Any, tmp_path: Path) -> None:
    settings = Settings(work_dir=tmp_path, heartbeat_s=0.6)
    with running(FakeEngine(), settings) as port:
        user = User(scene, port, idle_s=0.1)
        user.send(volume_of(slicer, oblique(0), IMAGE))
        first = user.controller.session
        time.sleep(1.5)
        user.box(user.segment(), 0, 3, [1, 2, 4, 5])
        assert user.controller.session is first
        user.controller.close()


def test_the_user_hears_of_a_lost_session_before_the_next_click(timed: tuple[User, Clock]) -> None:
    user, clock = timed
    clock.now += 1000
    user.controller._worker.start(lambda _: user.controller.session.heartbeat())  # as when idle
    user.wait(lambda: "lost the session" in user.said)
    assert user.state == "ready"


def test_a_server_that_was_started_anew(slicer: Any, scene: Any, tmp_path: Path) -> None:
    """Another process at the same address knows nothing: everything is sent again."""
    settings = Settings(work_dir=tmp_path)
    with running(FakeEngine(), settings) as port:
        user = User(scene, port)
        user.send(volume_of(slicer, oblique(0), IMAGE))
        target = user.segment()
        user.box(target, 0, 3, [1, 2, 4, 5])
    from MedSAM2FTLib.geometry import Slice

    user.controller.prompt_box(target, Slice(0, 4), [0, 0, 1, 1])
    user.wait()
    assert user.controller.status.failed
    assert "cannot be reached" in user.said
    assert user.state == "ready"
    with running(FakeEngine(), settings) as port:
        assert user.controller.client is not None
        user.controller.client.url = f"http://127.0.0.1:{port}"
        user.box(target, 0, 4, [0, 0, 1, 1])
        expected = filled((3, 3), (2, 5), (1, 4)) | filled((4, 4), (0, 1), (0, 1))
        assert np.array_equal(user.mask(target), expected)
        assert np.array_equal(user.servers(target), expected)
        user.controller.close()


class Gate(FakeBackend):
    """Waits before a slice until the test lets it go on."""

    def __init__(self, stop_at: int) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

        def on_frame(index: int) -> None:
            if index == stop_at:
                self.reached.set()
                assert self.go.wait(WAIT_S)

        super().__init__(on_frame)


def test_a_propagation_is_cancelled_and_can_be_undone(
    slicer: Any, scene: Any, tmp_path: Path
) -> None:
    gate = Gate(4)
    with running(FakeEngine(gate), Settings(work_dir=tmp_path)) as port:
        user = User(scene, port)
        user.send(volume_of(slicer, oblique(0), IMAGE))
        target = user.segment()
        user.box(target, 0, 1, [1, 2, 4, 5])
        user.controller.propagate([target], 0, direction="forward")
        user.wait(lambda: user.controller.status.done == 3)
        assert user.controller.status.total == 6
        assert user.state == "propagating"
        user.controller.undo()  # refused, and said
        assert "cancel" in user.said
        user.controller.cancel()
        time.sleep(0.7)
        gate.go.set()
        user.done()
        assert "Cancelled" in user.said
        assert np.array_equal(user.mask(target), filled((1, 4), (2, 5), (1, 4)))
        user.undo()
        assert np.array_equal(user.mask(target), filled((1, 1), (2, 5), (1, 4)))
        user.controller.close()


def test_painting_during_a_propagation_stays(slicer: Any, scene: Any, tmp_path: Path) -> None:
    """Between two spots that the server finds lies a voxel that the user draws meanwhile."""
    gate = Gate(4)
    with running(FakeEngine(gate), Settings(work_dir=tmp_path)) as port:
        user = User(scene, port)
        user.send(volume_of(slicer, oblique(0), IMAGE))
        target = user.segment()
        user.point(target, 0, 3, [2, 2], 1)
        user.point(target, 0, 3, [8, 7], 1)
        spots = user.mask(target)[3]
        user.controller.propagate([target], 0, direction="forward")
        assert gate.reached.wait(WAIT_S)
        painted = user.mask(target)
        painted[5, 5, 5] = True
        user.paint(target, painted)
        gate.go.set()
        user.done()
        expected = np.zeros(SHAPE, bool)
        expected[3:] = spots
        expected[5, 5, 5] = True
        assert np.array_equal(user.mask(target), expected)
        user.undo()  # what was painted is told first, and is the step that goes
        expected[5, 5, 5] = False
        assert np.array_equal(user.mask(target), expected)
        user.controller.close()


def test_a_slow_prompt_does_not_hold_the_user_interface(
    slicer: Any, scene: Any, tmp_path: Path
) -> None:
    gate = Gate(2)
    settings = Settings(work_dir=tmp_path, request_s=0.2)
    with running(FakeEngine(gate), settings) as port:
        user = User(scene, port)
        user.send(volume_of(slicer, oblique(0), IMAGE))
        target = user.segment()
        from MedSAM2FTLib.geometry import Slice

        started = time.monotonic()
        user.controller.prompt_box(target, Slice(0, 2), [1, 2, 4, 5])
        assert gate.reached.wait(WAIT_S)
        longest = 0.0
        while time.monotonic() - started < 1.5:
            before = time.monotonic()
            user.controller.tick()
            longest = max(longest, time.monotonic() - before)
        assert longest < 0.2
        assert user.state == "working"
        gate.go.set()
        user.done()
        assert np.array_equal(user.mask(target), filled((2, 2), (2, 5), (1, 4)))
        user.controller.close()


def test_an_upload_is_cancelled(slicer: Any, scene: Any, tmp_path: Path) -> None:
    from MedSAM2FTLib.state import Choice

    settings = Settings(work_dir=tmp_path, chunk_bytes=1)
    with running(FakeEngine(), settings) as port:
        user = User(scene, port)
        user.connect()
        user.controller.open(Choice(volume_of(slicer, oblique(0), IMAGE).GetID()))
        user.wait(lambda: user.controller.status.done > 2)
        assert user.state == "opening"
        user.controller.cancel()
        user.wait()
        assert (user.state, user.said) == ("connected", "The upload was cancelled.")
        user.controller.close()
        (root,) = tmp_path.iterdir()
        assert not [path for path in root.iterdir() if path.is_dir()]


def test_a_damaged_answer_is_said_and_changes_nothing(
    slicer: Any, scene: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    from MedSAM2FTLib.remote import RemoteSession

    with running(FakeEngine(), Settings(work_dir=tmp_path)) as port:
        user = User(scene, port)
        user.send(volume_of(slicer, oblique(0), IMAGE))
        target = user.segment()
        region = {"object_id": 1, "offset": [9, 0, 0], "shape": [1, 1, 1], "bits": "AA=="}
        fake = {"regions": [region], "voxels": 1}
        with monkeypatch.context() as patch:
            patch.setattr(RemoteSession, "prompt", lambda *_: fake)
            from MedSAM2FTLib.geometry import Slice

            user.controller.prompt_box(target, Slice(0, 2), [1, 2, 4, 5])
            user.wait()
        assert user.controller.status.failed
        assert user.state == "ready"
        assert user.mask(target).shape == SHAPE
        assert not user.mask(target).any()
        user.controller.close()


def test_an_answer_that_is_lost_leaves_segment_and_server_equal(
    slicer: Any, scene: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """The server did what was asked, Slicer never heard of it: the next click starts clean."""
    from MedSAM2FTLib.client import TimedOut
    from MedSAM2FTLib.geometry import Slice
    from MedSAM2FTLib.remote import RemoteSession

    with running(FakeEngine(), Settings(work_dir=tmp_path)) as port:
        user = User(scene, port)
        user.send(volume_of(slicer, oblique(0), IMAGE))
        target = user.segment()
        user.box(target, 0, 3, [1, 2, 4, 5])
        prompt = RemoteSession.prompt

        def lost(session: Any, said: Any) -> Any:
            prompt(session, said)
            raise TimedOut("has not answered")

        with monkeypatch.context() as patch:
            patch.setattr(RemoteSession, "prompt", lost)
            user.controller.prompt_box(target, Slice(0, 5), [0, 0, 9, 8])
            user.wait()
        assert user.controller.status.failed
        user.box(target, 0, 4, [0, 0, 1, 1])
        expected = filled((3, 3), (2, 5), (1, 4)) | filled((4, 4), (0, 1), (0, 1))
        assert np.array_equal(user.mask(target), expected)
        assert np.array_equal(user.servers(target), expected)
        user.controller.close()
