"""Mutated requests of the OpenAPI document: never a 500, never a file outside the folder."""

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st

from medsam2_ft.serve.api import create_app
from medsam2_ft.serve.engine import FakeEngine
from medsam2_ft.serve.settings import Settings

IMAGE_SHAPE = [3, 8, 9]


def hammer(folder: Path, examples: int) -> int:
    """Sends so many requests to every route, half of them to a session that exists."""
    settings = Settings(
        work_dir=folder / "work",
        accept_dir=folder / "cases",
        max_sessions=4,
        hosts=("localhost", "testserver"),
    )
    app = create_app(FakeEngine(), settings)
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app)
    with TestClient(app, base_url="http://localhost") as client:
        opened = client.post("/api/v1/sessions", json={"shape": IMAGE_SHAPE, "dtype": "uint8"})
        known, lease = opened.json()["session_id"], opened.json()["lease"]
        image = gzip.compress(bytes(range(216)))
        ready = client.put(
            f"/api/v1/sessions/{known}/data/0", content=image, headers={"X-Lease": lease}
        )
        assert ready.json()["state"] == "ready"
        statuses: Counter[int] = Counter()
        for result in schema.get_all_operations():
            statuses += attack(result.ok(), examples, known, lease)
    assert statuses[500] == 0
    assert statuses[200] > 0
    return statuses.total()


def attack(operation: Any, examples: int, known: str, lease: str) -> Counter[int]:
    """Sends requests to one route; returns how often each status came."""
    statuses: Counter[int] = Counter()

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), mine=st.booleans())
    def send(case: Any, mine: bool) -> None:
        if mine and operation.path != "/api/v1/sessions/{session_id}":
            if "session_id" in case.path_parameters:
                case.path_parameters["session_id"] = known
            case.headers["X-Lease"] = lease
        answer = case.call()
        statuses[answer.status_code] += 1
        assert answer.status_code != 500, (case, answer.content)

    send()
    return statuses


def outside(folder: Path) -> set[Path]:
    inside = (folder / "work", folder / "cases")
    return {path for path in folder.rglob("*") if not any(path.is_relative_to(i) for i in inside)}


def test_a_few_mutated_requests(tmp_path: Path) -> None:
    assert hammer(tmp_path, 8) >= 100
    assert outside(tmp_path) == set()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_mutated_requests(tmp_path: Path) -> None:
    assert hammer(tmp_path, 600) >= 10_000
    assert outside(tmp_path) == set()
