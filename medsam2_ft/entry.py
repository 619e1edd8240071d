"""How entry points end: a user's mistake is one line and exit code 2, a defect a traceback."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable

from medsam2_ft.errors import UserError

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, the shell's own convention

# on the command line, and as a key in a YAML file
_UNKNOWN_OPTION = re.compile(r"unrecognized arguments: (?:[^-\s]\S* )*--?([^-\s]\S*)")
# "Does not validate ... Subtypes: [list[int], NoneType] Errors: ... Given value: 3"
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)(?:, NoneType)?\] "
    r"Errors: .* Given value type: \w+ Given value: (.*?)(?=; see |$)"
)
_UNKNOWN_KEY = re.compile(r"[Oo]ption '([\w.]+)'(?: is not accepted|$)")


def run(main: Callable[[], object]) -> int:
    """Runs an entry point and turns what it raises into an exit code.

    A command that wants another exit code raises ``SystemExit``, which passes through. Parsers
    raise for a bad option instead of exiting, so that it arrives here as well.

    Args:
        main: The work; what it returns is ignored.

    Returns:
        0 after success, 2 after a user's mistake (``error: ...`` in one line on stderr), 130 after
        Ctrl-C. Every other exception passes: it is a defect and keeps its traceback.
    """
    try:
        main()
    except (UserError, argparse.ArgumentError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_OK


def printable(text: object) -> str:
    """Returns ``text`` with ``?`` for what a terminal would obey or cannot show.

    Names of files may hold escape sequences, and bytes that are no UTF-8.
    """
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in str(text))


def one_line(error: BaseException) -> str:
    """Returns the message of ``error`` in one line, or its type's name where there is no message.

    What parsers say about types is put in words: ``--size: Expected a Literal[256, 512]``.
    """
    text = " ".join(printable(error).split()) or type(error).__name__
    text = re.sub(r'Parser key "([^"]+)":', r"--\1:", text)
    text = re.sub(r"<class '([\w.]+)'>|typing\.(\w)", r"\1\2", text)
    return _UNION.sub(r"Expected a \1. Got value: \2", text)


def explain_unknown_option(message: str, known: Iterable[str]) -> str:
    """Adds the closest known option to a parser's complaint about an unknown one.

    Args:
        message: What the parser said.
        known: All option strings that it accepts, such as ``--workers``.

    Returns:
        The message, followed by ``(did you mean --workers?)`` where it complains about an unknown
        option and a known one resembles it, otherwise as it came.
    """
    match = _UNKNOWN_OPTION.search(message) or _UNKNOWN_KEY.search(message)
    if match is None or "did you mean" in message:  # a parser may report one error twice
        return message
    name = match.group(1).split("=", maxsplit=1)[0]
    closest = closest_name(name, [option.lstrip("-") for option in known])
    if closest is None:
        return message
    dashes = "--" if match.re is _UNKNOWN_OPTION else ""
    return f"{message} (did you mean {dashes}{closest}?)"


def closest_name(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that resembles ``name`` most, or None where none does."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return matches[0] if matches else None
