"""Lists of texts and negative numbers on the command line."""

from collections.abc import Sequence

import pytest

from medsam2_ft.command import run_command

_SEEN: list[tuple[object, ...]] = []


def command(
    source: str, *, box: list[str] | None = None, window: str | None = None, n: int = 3
) -> None:
    """Notes what it was called with.

    Args:
        source: A file.
        box: Several.
        window: Level/width.
        n: A number.
    """
    _SEEN.append((source, box, window, n))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["a"], ("a", None, None, 3)),
        (["a", "--box", "1,2@3"], ("a", ["1,2@3"], None, 3)),
        (["a", "--box", "1", "--box", "2"], ("a", ["1", "2"], None, 3)),
        (["--box", "1", "2", "--n", "4", "a"], ("a", ["1", "2"], None, 4)),
        (["a", "--box", "-1.5,2", "-.5,3"], ("a", ["-1.5,2", "-.5,3"], None, 3)),
        (["a", "--window", "-600/1500", "--n", "-2"], ("a", None, "-600/1500", -2)),
    ],
)
def test_texts_and_negative_numbers(args: Sequence[str], expected: tuple[object, ...]) -> None:
    _SEEN.clear()
    run_command(command, "x", args)
    assert [expected] == _SEEN
