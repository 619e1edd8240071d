"""Which failures of a write are waited for, and for how long."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import write_failure
from medsam2_ft.io.disk_wait import is_disk_trouble, require_folder, write_patiently


def failure(code: int) -> OSError:
    return OSError(code, os.strerror(code), "last.ckpt")


def failing(error: Exception, times: int, calls: list[int]) -> Callable[[], None]:
    """Returns a write that fails so many times before it succeeds, and counts its calls."""

    def write() -> None:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error

    return write


@pytest.mark.parametrize(
    "name", ["ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "ENOENT", "ENOTCONN"]
)
def test_a_disk_that_is_full_broken_or_gone_is_trouble(name: str) -> None:
    assert is_disk_trouble(failure(getattr(errno, name)))


def test_a_write_is_tried_again_until_it_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[int] = []
    write_patiently(failing(failure(errno.ESTALE), 1, calls), wait_min=10.0)
    assert len(calls) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["paused", "the disk is back, going on"]
    assert os.strerror(errno.ESTALE) in said[0]


def test_what_atomic_writers_make_of_it_is_seen_through() -> None:
    cause = failure(errno.EIO)
    with pytest.raises(UserError) as caught:
        raise write_failure(Path("last.ckpt"), cause) from cause
    assert is_disk_trouble(caught.value)
    assert not is_disk_trouble(UserError("a bad option"))


@pytest.mark.parametrize("error", [failure(errno.EACCES), UserError("bad"), ValueError("bug")])
def test_other_errors_are_raised_at_once(error: Exception) -> None:
    calls: list[int] = []
    with pytest.raises(type(error)):
        write_patiently(failing(error, 1, calls), wait_min=10.0)
    assert len(calls) == 1


def test_a_disk_that_stays_away_ends_in_one_line() -> None:
    calls: list[int] = []
    with pytest.raises(UserError, match=r"last.ckpt.*waited .* min in vain"):
        write_patiently(failing(failure(errno.ENOSPC), 10**6, calls), wait_min=0.0)
    assert len(calls) == 1


def test_a_folder_that_vanished_is_named(tmp_path: Path) -> None:
    require_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone") as caught:
        require_folder(tmp_path / "gone")
    assert is_disk_trouble(caught.value)
