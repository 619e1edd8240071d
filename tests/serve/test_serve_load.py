"""The load test in short: several users, fewer places, everything stays apart."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from live import running

from medsam2_ft.serve.engine import FakeEngine
from medsam2_ft.serve.problems import Problem
from medsam2_ft.serve.results import bits
from medsam2_ft.serve.routes import masks
from medsam2_ft.serve.settings import Settings

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def users() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield __import__("serve_client")
    sys.path.remove(str(BENCHMARKS))


def test_three_users_for_a_few_seconds(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "serve_load.py"), "--seconds=3", "--clients=3"]
    command += ["--max-sessions=2", "--threads=1", f"--json={tmp_path / 'load.json'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    result = json.loads((tmp_path / "load.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert result["problems"] == []
    assert set(result["answers"]) <= {"200", "201", "202", "204", "503"}
    assert result["sessions"] >= 3
    assert {row["kind"] for row in result["rows"]} >= {"prompt", "propagation", "undo", "masks"}
    assert "prompt" in done.stdout


def test_masks_of_another_session_are_noticed(
    users: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load test itself can fail: here every session is shown the masks of the first one."""
    seen: list[Any] = []

    def mixed(core: Any) -> dict[str, Any]:
        seen.append(core)
        return bits(seen[0])

    monkeypatch.setattr(masks, "bits", mixed)
    found = []
    with running(FakeEngine(), Settings(work_dir=tmp_path)) as port:
        for number in (1, 2):
            measured = users.Measured()
            users.LoadUser(port, number, measured).run(time.monotonic() + 0.01)
            found.append(measured.problems)
    assert found[0] == []
    assert "masks of another one" in found[1][0]


def test_a_503_needs_retry_after(
    users: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Problem, "headers", {})
    with running(FakeEngine(), Settings(work_dir=tmp_path, max_sessions=0)) as port:
        measured = users.Measured()
        users.LoadUser(port, 1, measured).run(time.monotonic() + 0.01)
    assert "503 without Retry-After" in measured.problems[0]
