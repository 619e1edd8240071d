"""A typed function as a command: its signature is the command line, its docstring the help."""

import argparse
import inspect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, get_args, get_origin

from docstring_parser import parse as parse_docstring
from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from medsam2_ft.entry import explain_unknown_option
from medsam2_ft.errors import UserError


class OneLineParser(ArgumentParser):
    """Parser whose complaints are one ``UserError`` that names file, option and remedy."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises ``UserError`` with the closest option and the way to the help.

        Not ``argparse.ArgumentError``: the parser would catch that and call ``error`` again.
        """
        text = explain_unknown_option(message, _options(self))
        raise UserError(f"{text}; see {self.prog.replace(' [options]', '')} --help") from ex

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """Parses a YAML file; errors name it."""
        try:
            values: Namespace = super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not a YAML file: {error}") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        return values


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yields the options of a parser and of its subcommands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _options(subparser)


class CommandParser(OneLineParser):
    """Parser of a typed function: flags for booleans, ``--x`` and ``--no_x``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # argparse takes -30/80 and -12.5,40 for options; no option here starts with a digit
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Adds an argument; an optional ``bool`` takes no value."""
        if kwargs.get("type") is bool and args[0].startswith("--"):
            del kwargs["type"]
            kwargs.pop("sub_configs", None)
            kwargs["action"] = ActionYesNo
        action: argparse.Action = super().add_argument(*args, **kwargs)
        return action


def _item_of_list(annotation: Any) -> type | None:
    """What an option that is a list of texts or of whole numbers holds; None for all others."""
    items: dict[Any, type] = {list[str]: str, list[int]: int}
    kinds = (annotation, *get_args(annotation))
    return next((items[kind] for kind in kinds if kind in items), None)


def build_parser(function: Callable[..., object], prog: str) -> CommandParser:
    """Makes the parser of a command.

    Args:
        function: Typed function with a Google docstring. Required positional parameters become
            positional arguments (a first one that is a list takes several), everything else
            options, those that are lists with one or more values, once or repeatedly;
            ``--config`` reads values from YAML.
        prog: How the user calls the command, such as ``medsam2-ft prepare``.

    Returns:
        The parser; its result holds one entry per parameter of ``function``, and ``config``.
    """
    docstring = parse_docstring(inspect.getdoc(function) or "")
    parser = CommandParser(prog=prog, description=docstring.description, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with option values.")
    helps = {entry.arg_name: entry.description for entry in docstring.params}
    skipped: set[str | int] = set()
    # jsonargparse itself would want lists as JSON
    for position, parameter in enumerate(inspect.signature(function).parameters.values()):
        name = parameter.name
        if position == 0 and get_origin(parameter.annotation) is list:
            (item,) = get_args(parameter.annotation)
            parser.add_argument(name, type=item, nargs="+", help=helps.get(name))
        elif kind := _item_of_list(parameter.annotation):
            parser.add_argument(
                f"--{name}",
                type=kind,
                nargs="+",
                action="extend",
                default=parameter.default,
                help=helps.get(name),
            )
        else:
            continue
        skipped.add(name)
    parser.add_function_arguments(
        function,
        as_group=False,
        as_positional=True,
        fail_untyped=True,
        sub_configs=True,
        skip=skipped,
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
