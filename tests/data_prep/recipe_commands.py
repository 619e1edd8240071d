"""Runs the command in this process."""

import pytest

from data_prep.__main__ import main


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


def prepare(*args: object) -> int:
    """Without contact sheets, which take most of the time."""
    return run(*args, "--workers", 1, "--no_sheets")


def error_of(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """Runs a command that must end in one line."""
    assert main([*map(str, args)]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    return text
