"""A typed function as a command: its signature is the command line, its docstring the help."""

import argparse
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from docstring_parser import parse as parse_docstring
from jsonargparse import ActionYesNo, ArgumentParser

from medsam2_ft.entry import explain_unknown_option
from medsam2_ft.errors import UserError


class CommandParser(ArgumentParser):
    """Parser with flags for booleans (``--x``, ``--no_x``) and errors that help in one line."""

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Adds an argument; an optional ``bool`` takes no value."""
        if kwargs.get("type") is bool and args[0].startswith("--"):
            del kwargs["type"]
            kwargs.pop("sub_configs", None)
            kwargs["action"] = ActionYesNo
        action: argparse.Action = super().add_argument(*args, **kwargs)
        return action

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises ``UserError`` with the closest option and the way to the help.

        Not ``argparse.ArgumentError``: the parser would catch that and call ``error`` again.
        """
        known = [option for action in self._actions for option in action.option_strings]
        text = explain_unknown_option(message, known)
        raise UserError(f"{text}; see {self.prog} --help") from ex


def build_parser(function: Callable[..., object], prog: str) -> CommandParser:
    """Makes the parser of a command.

    Args:
        function: Typed function with a Google docstring. Required positional parameters become
            positional arguments, everything else options; ``--config`` reads values from YAML.
        prog: How the user calls the command, such as ``medsam2-ft prepare``.

    Returns:
        The parser; its result holds one entry per parameter of ``function``, and ``config``.
    """
    docstring = parse_docstring(inspect.getdoc(function) or "")
    parser = CommandParser(prog=prog, description=docstring.description, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with option values.")
    parser.add_function_arguments(
        function, as_group=False, as_positional=True, fail_untyped=True, sub_configs=True
    )
    return parser


def run_command(function: Callable[..., object], prog: str, args: Sequence[str]) -> None:
    """Parses ``args`` and calls ``function`` with the result.

    Args:
        function: See ``build_parser``.
        prog: See ``build_parser``.
        args: What follows the command's name on the command line.

    Raises:
        UserError: The arguments do not fit the function; the message says which.
    """
    parser = build_parser(function, prog)
    values = parser.instantiate(parser.parse_args(list(args))).as_dict()
    values.pop("config", None)
    function(**values)
