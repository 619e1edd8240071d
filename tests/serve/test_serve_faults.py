"""Clients that vanish, a server that is killed, a disk that is full."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live import WAIT_S, Client, running

from medsam2_ft.commands.serve import KEEP_ALIVE_S, _listen
from medsam2_ft.serve import wire
from medsam2_ft.serve.backend import FakeBackend
from medsam2_ft.serve.engine import FakeEngine
from medsam2_ft.serve.problems import RETRY_AFTER_S
from medsam2_ft.serve.sessions import PAGE_FOLDER, PREFIX
from medsam2_ft.serve.settings import Settings

IMAGE = np.random.default_rng(0).integers(-500, 500, (6, 20, 24)).astype(np.int16)
LARGE = np.random.default_rng(1).integers(0, 256, (8, 256, 256), dtype=np.uint8)  # does not shrink
BOX = [2, 3, 9, 8]


def session_folders(work: Path) -> list[Path]:
    found = [path for root in work.glob(f"{PREFIX}*") for path in root.iterdir() if path.is_dir()]
    return [path for path in found if path.name != PAGE_FOLDER]


def put(port: int, path: str, lease: str, length: int, body: bytes = b"", **headers: str) -> Any:
    """A request whose body is not all sent; the connection stays open."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    connection.putrequest("PUT", f"/api/v1{path}")
    for name, value in {"X-Lease": lease, "Content-Length": str(length), **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    return connection


def wait_until(what: Any) -> None:
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_client_that_vanishes_within_a_chunk_can_send_it_again(tmp_path: Path) -> None:
    with running(FakeEngine(), Settings(work_dir=tmp_path, chunk_bytes=1000)) as port:
        user = Client(port)
        user.open(shape=list(IMAGE.shape), dtype="int16")
        chunks = list(wire.pack_chunks(IMAGE, 1000))
        _, body, _ = chunks[0]
        path = f"{user.session}/data/0"
        put(port, path, user.headers["X-Lease"], len(body), body[: len(body) // 2]).close()
        time.sleep(0.2)
        assert [list(folder.iterdir()) for folder in session_folders(tmp_path)] == [[]]
        for number, body, digest in chunks:
            last = user.call("PUT", f"{user.session}/data/{number}", body, X_SHA256=digest)
        assert last.json["state"] == "ready"
        assert user.prompt(index=2, box=BOX)["voxels"] == 48


def test_a_client_that_vanishes_within_a_file_leaves_none(tmp_path: Path) -> None:
    with running(FakeEngine(), Settings(work_dir=tmp_path)) as port:
        user = Client(port)
        user.open()
        connection = put(
            port, f"{user.session}/file", user.headers["X-Lease"], 10_000_000, bytes(300_000),
            X_Filename="a.nii",
        )  # fmt: skip
        wait_until(lambda: list(session_folders(tmp_path)[0].iterdir()))
        connection.close()
        wait_until(lambda: not list(session_folders(tmp_path)[0].iterdir()))
        assert user.call("GET", user.session).json["state"] == "empty"


@pytest.mark.parametrize(
    ("path", "headers"), [("/data/0", {}), ("/file", {"X_Filename": "a.nii.gz"})]
)
def test_what_is_too_large_is_refused_before_it_is_sent(
    tmp_path: Path, path: str, headers: dict[str, str]
) -> None:
    """The answer comes to a client that has sent nothing of the body yet."""
    settings = Settings(work_dir=tmp_path, chunk_bytes=1000, max_upload_bytes=1000)
    with running(FakeEngine(), settings) as port:
        user = Client(port)
        user.open(**({"shape": [9, 9, 9], "dtype": "uint8"} if path == "/data/0" else {}))
        connection = put(port, user.session + path, user.headers["X-Lease"], 1 << 30, **headers)
        answer = connection.getresponse()
        assert answer.status == 413
        assert answer.headers["Content-Type"] == "application/problem+json"
        connection.close()
        assert user.call("GET", user.session).json["state"] == "empty"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_client_that_vanishes_in_mid_propagation_frees_model_and_disk(tmp_path: Path) -> None:
    """It says nothing any more: its time runs out, its job ends between two slices."""
    reached, go, passed = threading.Event(), threading.Event(), []

    def on_frame(index: int) -> None:
        passed.append(index)
        if index == 3:
            reached.set()
            assert go.wait(WAIT_S)

    clock = Clock()
    settings = Settings(work_dir=tmp_path, heartbeat_s=30.0, clock=clock, request_s=0.2)
    with running(FakeEngine(FakeBackend(on_frame)), settings) as port:
        gone, other = Client(port), Client(port)
        gone.upload(IMAGE)
        gone.prompt(index=0, box=BOX)
        job = gone.call("POST", f"{gone.session}/propagate", {"direction": "forward"}).json
        assert reached.wait(WAIT_S)
        clock.now = 31.0
        other.open(shape=list(IMAGE.shape), dtype="int16")  # whoever comes makes room
        assert len(session_folders(tmp_path)) == 1
        go.set()
        other.call("DELETE", other.session)
        other.upload(IMAGE)
        assert other.prompt(index=1, box=BOX)["voxels"] == 48
        assert max(passed) == 3
        assert gone.call("GET", f"/jobs/{job['job_id']}").status == 404
        assert gone.call("GET", gone.session).status == 410


class Process:
    """``medsam2-ft serve`` as users start it, with a list of one random model."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        models = folder / "models.yaml"
        models.write_text("- {id: tiny, file: 'random:tiny_test', image_size: 64}\n")
        (folder / "tmp").mkdir(exist_ok=True)
        command = ["serve", f"--models={models}", "--model=tiny", f"--port={port}", "--device=cpu"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "medsam2_ft", *command],
            env={**os.environ, "TMPDIR": str(folder / "tmp"), "MEDSAM2FT_CHECKPOINTS": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/api", line)
        assert found is not None, (line, self.process.stderr)
        self.port = int(found[1])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    started: list[Any] = []
    real = subprocess.Popen

    class Watched(real):  # type: ignore[type-arg,misc]
        def __init__(self, *arguments: Any, **how: Any) -> None:
            super().__init__(*arguments, **how)
            started.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", Watched)
        yield tmp_path
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_server_is_started_again_and_stopped(folder: Path) -> None:
    """SIGKILL leaves files; the next server removes them, and its clients can go on."""
    first = Process(folder)
    user = Client(first.port)
    user.upload(IMAGE)
    user.prompt(index=2, box=BOX)
    user.call("POST", f"{user.session}/propagate", {})
    (old,) = session_folders(folder / "tmp")
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(WAIT_S)
    assert old.is_dir()
    second = Process(folder, first.port)
    assert not old.exists()
    answer = user.call("GET", user.session)
    assert (answer.status, answer.json["detail"]) == (404, "There is no such session.")
    user.headers.pop("X-Lease")
    user.upload(IMAGE)
    assert user.prompt(index=2, box=BOX)["voxels"] >= 0
    user.call("POST", f"{user.session}/propagate", {})
    second.process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, errors = second.process.communicate(timeout=WAIT_S)
    assert time.monotonic() - started < 15
    assert second.process.returncode in (0, 130, -signal.SIGINT)
    assert "Traceback" not in errors
    assert list((folder / "tmp").glob(f"{PREFIX}*")) == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", first.port))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 384 KiB; mounting one needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=384k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def said_full(answer: Any) -> None:
    assert (answer.status, answer.json["detail"]) == (507, "The server's disk is full.")
    assert answer.headers["Content-Type"] == "application/problem+json"


def files(disk: Path) -> list[str]:
    return [path.name for path in disk.rglob("*") if path.is_file() and path.name != "running.lock"]


def test_a_full_disk_is_said_and_leaves_no_half_file(small_disk: Path) -> None:
    settings = Settings(work_dir=small_disk, accept_dir=small_disk / "cases", chunk_bytes=1 << 17)
    with running(FakeEngine(), settings) as port:
        user = Client(port)
        user.open()
        body = LARGE.tobytes()
        said_full(user.call("PUT", f"{user.session}/file", body, X_Filename="a.nii"))
        assert files(small_disk) == []
        user.call("DELETE", user.session)
        user.open(shape=list(LARGE.shape), dtype="uint8")
        put_in, full = 0, None
        for number, body, digest in wire.pack_chunks(LARGE, 1 << 17):
            full = user.call("PUT", f"{user.session}/data/{number}", body, X_SHA256=digest)
            if full.status != 200:
                break
            put_in += 1
        assert full is not None
        said_full(full)
        assert put_in >= 1
        assert user.call("GET", user.session).json["state"] == "empty"
        user.call("DELETE", user.session)
        assert files(small_disk) == []
        user.upload(LARGE[:2])  # what fits is taken: the server goes on
        user.prompt(index=1, box=BOX)
        (small_disk / "filler").write_bytes(bytes(300_000))
        said_full(user.call("POST", f"{user.session}/accept", {}))
        assert files(small_disk) == ["filler"]
        (small_disk / "filler").unlink()
        assert user.call("POST", f"{user.session}/accept", {}).status == 201


def test_a_device_that_is_full_is_said(tmp_path: Path) -> None:
    """The same for those who may not mount: the kernel's own full device."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with running(FakeEngine(), Settings(work_dir=tmp_path, chunk_bytes=1000)) as port:
        user = Client(port)
        user.open(shape=list(IMAGE.shape), dtype="int16")
        (session,) = session_folders(tmp_path)
        (session / "image.raw").symlink_to("/dev/full")
        chunks = list(wire.pack_chunks(IMAGE, 1000))
        said_full(user.call("PUT", f"{user.session}/data/0", chunks[0][1]))
        (session / "image.raw").unlink()
        for number, body, digest in chunks:
            last = user.call("PUT", f"{user.session}/data/{number}", body, X_SHA256=digest)
        assert last.json["state"] == "ready"


def test_answers_are_not_delayed_and_connections_outlive_retry_after() -> None:
    """asyncio switches the delay off only where the socket names its protocol."""
    with _listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
    assert KEEP_ALIVE_S > 2 * RETRY_AFTER_S
