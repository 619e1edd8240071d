"""Downloads from a server on this machine: progress, checksums, interruptions."""

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medsam2_ft.download import download, is_verified
from medsam2_ft.errors import UserError

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """What the handler does, and what it was asked."""

    def __init__(self) -> None:
        self.understands_ranges = True
        self.breaks_after: int | None = None
        self.content = CONTENT
        self.ranges: list[str | None] = []
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    def __init__(self, server: Server, *args: object) -> None:
        self.script = server
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.script.ranges.append(wanted)
        start = 0
        if wanted and self.script.understands_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.script.content):
            self.send_error(416)
            return
        body = self.script.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.script.breaks_after])

    def log_message(self, *args: object) -> None:
        """Keeps the test's output quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    script = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, script))  # type: ignore[arg-type]
    script.url = f"http://127.0.0.1:{http.server_port}/w.pt"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield script
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "w.pt"
    download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]
    assert is_verified(target, SHA256)


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_continues(ranges: bool, server: Server, tmp_path: Path) -> None:
    target = tmp_path / "w.pt"
    server.understands_ranges = ranges
    server.breaks_after = 300_000
    with pytest.raises(OSError, match="closed after"):
        download(server.url, target, SHA256)
    assert not target.exists()
    assert (tmp_path / "w.pt.part").stat().st_size == 300_000
    server.breaks_after = None
    download(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]


def test_a_complete_part_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.pt.part").write_bytes(CONTENT)
    download(server.url, tmp_path / "w.pt", SHA256)
    assert (tmp_path / "w.pt").read_bytes() == CONTENT


def test_wrong_bytes_are_deleted(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(UserError, match="wrong sha256"):
        download(server.url, tmp_path / "w.pt", SHA256)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_server_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="refused"):
        download("http://127.0.0.1:9/w.pt", tmp_path / "w.pt", SHA256)
    assert list(tmp_path.iterdir()) == []


def test_verification_without_a_writable_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(CONTENT)

    def refuse(target: Path, content: object) -> None:
        raise UserError(f"{target}: cannot be written")

    monkeypatch.setattr("medsam2_ft.download.write_json", refuse)
    assert is_verified(path, SHA256)
    assert not is_verified(path, "0" * 64)
