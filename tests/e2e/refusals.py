"""Entry points in this process, and what is expected of them where the input is bad.

One line that names it, exit code 2, nothing half-written.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medsam2_ft import __main__ as console
from medsam2_ft.cli import main as train_main
from medsam2_ft.entry import run as run_entry

OPTIONS: dict[str, Any] = {
    "data.image_size": 64,
    "data.batch_size": 2,
    "data.num_workers": 0,
    "model.variant": "tiny_test",
    "model.weights": "random",
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 1,
    "trainer.num_sanity_val_steps": 0,
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
    "pictures.train_slices": 0,
    "pictures.val_slices": 0,
}
# Runs an entry point that must refuse; returns its one line.
Refused = Callable[[Callable[[], object]], str]


def arguments(command: str, data: Path, run: Path, *words: object, **options: object) -> list[str]:
    values = OPTIONS | {"run": run, "data.data_dir": data} | options
    return [command, *map(str, words), *(f"--{key}={value}" for key, value in values.items())]


def error_line(code: object, stderr: str) -> str:
    """The last line on stderr, the only one that starts with ``error: ``."""
    lines = stderr.splitlines()
    assert code == 2, stderr
    assert "Traceback" not in stderr
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], stderr
    return lines[-1]


def train(*args: Any, **options: object) -> Callable[[], int]:
    return lambda: run_entry(lambda: train_main(arguments(*args, **options)))


def command(*args: object) -> Callable[[], int]:
    return lambda: console.main([str(arg) for arg in args])


def listing(folder: Path) -> dict[str, bytes]:
    """Everything below a folder but the slice store, which keeps the good cases."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if ".store" not in path.parts
    }


def assert_says(line: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in line, line
