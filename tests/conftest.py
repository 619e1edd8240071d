"""Fixtures that every test may use.

``synthetic`` (beside this file) holds the functions behind the builders; tests may import it.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic

from medsam2_ft import host_memory

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def freed_memory_goes_back() -> Iterator[None]:
    """This process trains many models in turn; a training that is a process of its own keeps it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_memory, "keep_freed_memory", lambda: False)
        yield


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with real cases; the test is skipped where it is absent."""
    folder = Path(os.environ.get("MEDSAM2FT_TEST_DATA", str(ROOT / "../shared/data"))).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real test data at {folder} (set MEDSAM2FT_TEST_DATA)")
    return folder


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., Path]:
    """``make_case("a", shape_zyx=(4, 32, 32), labels=(1,), ...)`` writes ``tmp_path/a.npz``."""

    def make(name: str = "case", **options: Any) -> Path:
        return synthetic.write_npz(tmp_path / f"{name}.npz", **options)

    return make


@pytest.fixture
def tiny_case(make_case: Callable[..., Path]) -> Path:
    """One small gray case with three labels, two of them convex and one a crescent."""
    return make_case("tiny")


@pytest.fixture
def case_folder(tmp_path: Path) -> Path:
    """Four cases of mixed sizes, one of them 2D and one in colour."""
    return synthetic.write_folder(tmp_path / "cases")
