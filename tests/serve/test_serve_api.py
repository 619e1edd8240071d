"""The API over a real socket: flows, limits, expiry, privacy, faults."""

import errno
import http.client
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from live import WAIT_S, Client, running

from medsam2_ft.io.npz import read_case
from medsam2_ft.serve import uploads, wire
from medsam2_ft.serve.api import create_app
from medsam2_ft.serve.backend import FakeBackend
from medsam2_ft.serve.engine import FakeEngine, ModelEngine
from medsam2_ft.serve.registry import Registry
from medsam2_ft.serve.settings import Settings

IMAGE = np.random.default_rng(0).integers(-500, 500, (6, 20, 24)).astype(np.int16)
BOX = [2, 3, 9, 8]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("serve")
    settings = Settings(
        work_dir=folder / "work", accept_dir=folder / "accepted", chunk_bytes=1000, max_sessions=50
    )
    with running(FakeEngine(), settings) as number:
        yield number
    assert not list((folder / "work").iterdir())


@pytest.fixture
def user(port: int) -> Client:
    return Client(port)


def test_a_whole_session(user: Client) -> None:
    described = user.upload(IMAGE, window=[-100, 100], modality="CT")
    assert described["state"] == "ready"
    assert described["intensity"] == {"kind": "window", "lower": -100, "upper": 100}
    held = {1: np.zeros(IMAGE.shape, bool)}
    said = user.prompt(index=2, box=BOX)
    for region in said["regions"]:
        wire.apply_region(held[1], region)
    expected = np.zeros(IMAGE.shape[1:], bool)
    expected[3:9, 2:10] = True
    assert np.array_equal(wire.mask_from_json(said["mask"]), expected)
    job = user.call("POST", f"{user.session}/propagate", {"range": [1, 4]})
    assert job.status == 202
    over = user.follow(job.json["job_id"], held)
    assert (over["state"], over["done"], over["total"]) == ("done", 5, 5)
    bits = user.finish(user.call("GET", f"{user.session}/masks?format=bits"))
    found = np.zeros(IMAGE.shape, bool)
    wire.apply_region(found, bits["regions"][0])
    assert np.array_equal(found, held[1])
    assert [bool(plane.any()) for plane in found] == [False, True, True, True, True, False]
    undone = user.finish(user.call("POST", f"{user.session}/undo"))
    for region in undone["regions"]:
        wire.apply_region(held[1], region)
    assert np.flatnonzero(held[1].any(axis=(1, 2))).tolist() == [2]
    assert user.call("POST", f"{user.session}/redo").status == 200
    assert user.call("POST", f"{user.session}/redo").status == 409
    assert user.call("DELETE", user.session).status == 204
    assert user.call("GET", user.session).status == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/prompts", {"object_id": 1, "index": 6, "box": BOX}, 422),
        ("/prompts", {"object_id": 1, "index": 0}, 422),
        ("/prompts", {"object_id": 0, "index": 0, "box": BOX}, 422),
        ("/prompts", {"object_id": 1, "index": 0, "points": [[1, 1]]}, 422),
        ("/prompts", {"object_id": 1, "index": 0, "mask": {"shape": [20, 24], "bits": "AA"}}, 400),
        ("/prompts", {"object_id": 1, "index": 0, "box": BOX, "path": "/etc/passwd"}, 422),
        ("/prompts", b"{", 400),
        ("/view", {"axis": 0, "index": 99}, 422),
        ("/undo", None, 409),
        ("/accept", {}, 409),
    ],
)  # fmt: skip
def test_bad_requests_are_problems_and_change_nothing(
    user: Client, path: str, body: Any, status: int
) -> None:
    user.upload(IMAGE)
    user.headers["Content-Type"] = "application/json"
    answer = user.call("POST", f"{user.session}{path}", body)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["status"] == status
    assert answer.json["detail"]
    assert user.call("GET", user.session).json["revision"] == 0


def test_two_users_do_not_see_each_other(port: int) -> None:
    one, other = Client(port), Client(port)
    one.upload(IMAGE)
    other.upload(IMAGE)
    one.prompt(index=2, box=BOX)
    job = one.call("POST", f"{one.session}/propagate", {}).json["job_id"]
    masks = other.call("GET", f"{other.session}/masks?format=bits").json
    assert masks["regions"] == []
    for method, path in [
        ("GET", one.session),
        ("GET", f"{one.session}/masks"),
        ("POST", f"{one.session}/undo"),
        ("DELETE", one.session),
        ("GET", f"/jobs/{job}"),
        ("DELETE", f"/jobs/{job}"),
    ]:
        assert other.call(method, path).status == 404
    one.headers.pop("X-Lease")
    assert one.call("GET", one.session).status == 404


def test_damaged_chunks_are_refused_and_can_be_sent_again(user: Client) -> None:
    answer = user.open(shape=list(IMAGE.shape), dtype="int16")
    assert answer.json["chunks"] == 6
    chunks = list(wire.pack_chunks(IMAGE, 1000))
    put = f"{user.session}/data"
    number, body, digest = chunks[0]
    assert (
        user.call("PUT", f"{put}/0", body[:-4], X_SHA256=wire.sha256_hex(body[:-4])).status == 400
    )
    assert user.call("PUT", f"{put}/0", body, X_SHA256="0" * 64).status == 400
    assert user.call("PUT", f"{put}/99", body).status == 400
    assert (
        user.call(
            "POST", f"{user.session}/prompts", {"object_id": 1, "index": 0, "box": BOX}
        ).status
        == 409
    )
    for number, body, digest in reversed(chunks):
        last = user.call("PUT", f"{put}/{number}", body, X_SHA256=digest)
    assert last.json["state"] == "ready"
    assert user.call("PUT", f"{put}/0", body).status == 409


def test_an_upload_that_breaks_off_leaves_the_server_usable(user: Client, port: int) -> None:
    user.open(kind="volume")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    connection.putrequest("PUT", f"/api/v1{user.session}/file")
    for name, value in {"X-Lease": user.headers["X-Lease"], "X-Filename": "a.nii.gz",
                        "Content-Length": "100000"}.items():  # fmt: skip
        connection.putheader(name, value)
    connection.endheaders(b"half of it")
    connection.close()
    assert user.call("GET", user.session).json["state"] == "empty"
    assert user.call("GET", "/health").status == 200


@pytest.mark.parametrize("name", ["../../evil.nii.gz", "a.exe", "", "C:\\x\\..\\a.nii.gz"])
def test_only_the_suffix_of_a_name_is_used(user: Client, name: str) -> None:
    user.open()
    answer = user.call("PUT", f"{user.session}/file", b"no nifti", X_Filename=name)
    assert answer.status == 422
    assert "evil" not in answer.body.decode()


def test_a_zip_that_leads_out_is_refused(user: Client, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../escaped.dcm", b"x")
    user.open()
    answer = user.call("PUT", f"{user.session}/file", packed.getvalue(), X_Filename="a.zip")
    assert answer.status == 422
    assert "leads out" in answer.json["detail"]


def test_accepted_results_are_cases(user: Client) -> None:
    user.upload(IMAGE, window=[-100, 100], modality="CT")
    user.prompt(index=2, box=BOX)
    user.prompt(object_id=2, index=2, box=[5, 5, 12, 12])
    answer = user.call("POST", f"{user.session}/accept", {"names": {"1": "liver"}})
    assert answer.status == 201
    assert answer.json["objects"] == [1, 2]


def test_accepted_cases_hold_image_labels_and_rule(tmp_path: Path) -> None:
    settings = Settings(work_dir=tmp_path / "w", accept_dir=tmp_path / "cases")
    with running(FakeEngine(), settings) as port:
        user = Client(port)
        user.upload(IMAGE, window=[-100, 100], modality="CT")
        user.prompt(index=2, box=BOX)
        name = user.call("POST", f"{user.session}/accept", {"names": {"1": "liver"}}).json["case"]
    case = read_case(tmp_path / "cases" / f"{name}.npz")
    assert case.label_names == {1: "liver"}
    assert case.intensity is not None
    assert (case.intensity.kind, case.intensity.lower) == ("window", -100)
    assert (case.label_maps[0] == 1).sum() == 8 * 6
    assert case.modality == "CT"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_sessions_expire(tmp_path: Path) -> None:
    clock = Clock()
    settings = Settings(work_dir=tmp_path, idle_s=100.0, heartbeat_s=30.0, clock=clock)
    with running(FakeEngine(), settings) as port:
        silent, alive = Client(port), Client(port)
        silent.upload(IMAGE)
        alive.upload(IMAGE)
        folders = {path for root in tmp_path.iterdir() for path in root.iterdir() if path.is_dir()}
        assert len(folders) == 2
        for clock.now in (20.0, 40.0, 60.0, 80.0):
            assert alive.call("POST", f"{alive.session}/heartbeat").status == 200
        assert silent.call("GET", silent.session).status == 410
        assert sum(folder.exists() for folder in folders) == 1
        clock.now = 101.0
        assert alive.call("POST", f"{alive.session}/heartbeat").status == 410
        assert not any(folder.exists() for folder in folders)


def test_a_full_server_says_so(tmp_path: Path) -> None:
    settings = Settings(work_dir=tmp_path, max_sessions=1, max_voxels=1000)
    with running(FakeEngine(), settings) as port:
        first, second = Client(port), Client(port)
        assert first.open(shape=[2, 2, 2], dtype="uint8").status == 201
        full = second.open(shape=[2, 2, 2], dtype="uint8")
        assert full.status == 503
        assert int(full.headers["Retry-After"]) > 0
        assert second.open(shape=[10, 10, 11], dtype="uint8").status == 413
        first.call("DELETE", first.session)
        assert second.open(shape=[2, 2, 2], dtype="uint8").status == 201


def test_the_token_guards_everything_but_health(tmp_path: Path) -> None:
    app = create_app(FakeEngine(), Settings(work_dir=tmp_path, token="secret"))
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/api/v1/health").status_code == 200
        for path in ("/api/v1/capabilities", "/api/v1/openapi.json", "/ui", "/"):
            answer = client.get(path)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert client.get(path, headers={"Authorization": "Bearer secre"}).status_code == 401
        good = {"Authorization": "Bearer secret"}
        assert client.get("/api/v1/capabilities", headers=good).status_code == 200


def test_a_forged_host_is_refused(tmp_path: Path) -> None:
    app = create_app(FakeEngine(), Settings(work_dir=tmp_path))
    with TestClient(app, base_url="http://localhost") as client:
        for host, status in [("localhost:7860", 200), ("127.0.0.1", 200), ("evil.test", 400)]:
            assert client.get("/api/v1/health", headers={"Host": host}).status_code == status
        answer = client.get("/api/v1/health", headers={"Origin": "http://evil.test"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_without_weights_the_server_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSAM2FT_CHECKPOINTS", str(tmp_path / "none"))
    app = create_app(ModelEngine(Registry(), device="cpu"), Settings(work_dir=tmp_path))
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/api/v1/health").json()["models"] == 0
        assert client.get("/api/v1/capabilities").json()["models"] == []
        answer = client.post("/api/v1/sessions", json={"shape": [1, 2, 2], "dtype": "uint8"})
        assert answer.status_code == 503
        assert "weights" in answer.json()["hint"]


class Gates(FakeBackend):
    """A model that waits before a slice until the test lets it go on."""

    def __init__(self, stop_at: int) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()

        def on_frame(index: int) -> None:
            if index == stop_at:
                self.reached.set()
                assert self.go.wait(WAIT_S)

        super().__init__(on_frame)


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Callable[[int], tuple[Gates, Client]]]:
    gates: list[Gates] = []
    servers = []

    def start(stop_at: int) -> tuple[Gates, Client]:
        gates.append(Gates(stop_at))
        settings = Settings(work_dir=tmp_path, request_s=0.2)
        servers.append(running(FakeEngine(gates[0]), settings))
        user = Client(servers[0].__enter__())
        user.upload(IMAGE)
        user.prompt(index=0, box=BOX)
        return gates[0], user

    yield start
    for gate in gates:
        gate.go.set()
    for server in servers:
        server.__exit__(None, None, None)


def test_a_propagation_is_cancelled_between_frames(
    gated: Callable[[int], tuple[Gates, Client]],
) -> None:
    gate, user = gated(3)
    job = user.call("POST", f"{user.session}/propagate", {"direction": "forward"}).json
    assert gate.reached.wait(WAIT_S)
    busy = user.call("POST", f"{user.session}/prompts", {"object_id": 1, "index": 0, "box": BOX})
    assert busy.status == 409
    assert user.call("GET", user.session).json["job_id"] == job["job_id"]
    polled = user.call("GET", f"/jobs/{job['job_id']}").json
    assert (polled["state"], polled["done"], polled["frames"]) == ("running", 3, [0, 1, 2])
    assert polled["eta_s"] is not None
    assert user.call("DELETE", f"/jobs/{job['job_id']}").status == 202
    gate.go.set()
    over = user.follow(job["job_id"], {1: np.zeros(IMAGE.shape, bool)})
    assert over["state"] == "cancelled"
    bits = user.call("GET", f"{user.session}/masks?format=bits").json
    assert bits["regions"][0]["shape"][0] == 4


def test_a_slow_prompt_becomes_a_job(gated: Callable[[int], tuple[Gates, Client]]) -> None:
    gate, user = gated(3)
    said = {"object_id": 1, "index": 3, "box": BOX}
    answer = user.call("POST", f"{user.session}/prompts", said)
    assert answer.status == 202
    gate.go.set()
    assert user.finish(answer)["voxels"] == 48


def test_a_prompt_that_waited_does_not_change_what_is_being_propagated(
    gated: Callable[[int], tuple[Gates, Client]],
) -> None:
    gate, user = gated(3)
    said = {"object_id": 1, "index": 3, "box": BOX}
    first = user.call("POST", f"{user.session}/prompts", said)
    second = user.call("POST", f"{user.session}/prompts", {**said, "index": 1})
    propagation = user.call("POST", f"{user.session}/propagate", {"range": [3, 5]})
    assert [answer.status for answer in (first, second, propagation)] == [202, 202, 202]
    gate.go.set()
    assert user.finish(first)["voxels"] == 48
    user.finish(propagation)
    late = user.call("GET", f"/jobs/{second.json['job_id']}").json
    assert (late["state"], late["problem"]["status"]) == ("failed", 409)
    bits = user.call("GET", f"{user.session}/masks?format=bits").json
    mask = np.zeros(IMAGE.shape, bool)
    wire.apply_region(mask, bits["regions"][0])
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [0, 3, 4, 5]


def test_a_client_that_vanishes_in_mid_propagation_frees_the_server(
    gated: Callable[[int], tuple[Gates, Client]],
) -> None:
    gate, user = gated(3)
    job = user.call("POST", f"{user.session}/propagate", {"direction": "forward"}).json
    assert gate.reached.wait(WAIT_S)
    assert user.call("DELETE", user.session).status == 204
    assert user.call("GET", f"/jobs/{job['job_id']}").status == 404
    gate.go.set()
    other = Client(int(user.base.split(":")[2].split("/")[0]))
    other.upload(IMAGE)
    assert other.prompt(index=1, box=BOX)["voxels"] == 48


def test_a_full_disk_is_said(user: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    user.open(shape=list(IMAGE.shape), dtype="int16")
    chunks = list(wire.pack_chunks(IMAGE, 1000))
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "unpack_chunk", full)
        assert user.call("PUT", f"{user.session}/data/0", chunks[0][1]).status == 507
    for number, body, digest in chunks:
        last = user.call("PUT", f"{user.session}/data/{number}", body, X_SHA256=digest)
    assert last.json["state"] == "ready"


def test_what_a_killed_server_left_is_removed_and_others_stay(tmp_path: Path) -> None:
    dead = tmp_path / "medsam2-ft-serve-dead"
    dead.mkdir()
    (dead / "running.lock").write_text("")
    (dead / "image.raw").write_text("private")
    with running(FakeEngine(), Settings(work_dir=tmp_path)):
        (alive,) = list(tmp_path.iterdir())
        assert alive != dead
        assert alive.stat().st_mode & 0o777 == 0o700
        with running(FakeEngine(), Settings(work_dir=tmp_path)):
            assert alive.exists()
    assert list(tmp_path.iterdir()) == []
