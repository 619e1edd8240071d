"""Fixtures of the end-to-end tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic
from refusals import Refused, error_line, train


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases to train on and one to validate on."""
    folder = tmp_path_factory.mktemp("good")
    synthetic.write_folder(folder / "train", 2)
    synthetic.write_folder(folder / "val", 1, seed=100)
    return folder


@pytest.fixture(scope="session")
def finished(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with checkpoints and exports."""
    run = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        assert train("fit", good, run)() == 0
    return run


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Runs an entry point that must refuse; returns its one line."""
    monkeypatch.setattr("sys.argv", ["train.py"])

    def call(main: Callable[[], object]) -> str:
        capfd.readouterr()
        code = main()
        return error_line(code, capfd.readouterr().err)

    return call
