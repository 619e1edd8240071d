"""Patterns of paths with placeholders, such as ``{case}/{case}_{sequence}.nii.gz``.

``{name}`` stands for a path part or a piece of one, at least one character (``{object}`` may be
empty); ``{name:t[12]*}`` for one that also matches the pattern after the colon. ``*``, ``?``,
``[...]`` and ``**`` mean what they mean elsewhere. The same placeholder has the
same text everywhere.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import islice

from medsam2_ft.errors import UserError

FRAME, LABEL, OBJECT, PATIENT = "frame", "label", "object", "patient"
SPECIAL = frozenset({FRAME, LABEL, OBJECT})
"""Placeholders that tell the files of one image or one segmentation apart."""

MAX_READINGS = 1000
"""In how many ways a path may be read before a pattern counts as too vague."""

Binding = Mapping[str, str]
"""The text of every placeholder; keys that start with ``*`` hold what wild cards matched."""

_TOKEN = re.compile(r"\{[^{}]*\}|\[[^\]]+\]|\*\*/?|\*|\?|[^{}\[*?]+|[\[{}]")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(?::([^{}/]+))?\}")


@dataclass(frozen=True)
class _Token:
    """A piece of a pattern: fixed text, a wild card, or a placeholder.

    Attributes:
        text: The text, the wild card, or what a placeholder must match, empty for anything.
        name: Of the placeholder, or where a wild card's text is kept; None for fixed text.
    """

    text: str
    name: str | None = None


@dataclass(frozen=True)
class Pattern:
    """A pattern of paths.

    Attributes:
        text: As the user wrote it.
        option: Where it was written, for messages.
        tokens: Its pieces.
    """

    text: str
    option: str
    tokens: tuple[_Token, ...] = field(repr=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Its placeholders in the order of their first appearance."""
        named = [token.name for token in self.tokens if token.name]
        return tuple(dict.fromkeys(name for name in named if name[0] != "*"))

    @cached_property
    def glob(self) -> str:
        """The pattern with ``*`` in place of placeholders; finds all paths that can match."""
        pieces = [t.text if t.name is None or t.name[0] == "*" else "*" for t in self.tokens]
        # ** stands for whole folders, so that two stars in a row must not meet
        return "".join(
            "" if piece == "*" and before == "*" else piece
            for before, piece in zip(["", *pieces], pieces, strict=False)
        )

    @cached_property
    def wild(self) -> bool:
        """Whether something in it besides placeholders is not fixed."""
        return any(token.name is not None and token.name[0] == "*" for token in self.tokens)

    def readings(self, path: str) -> list[Binding]:
        """Returns every way to read a path, those with the shortest first placeholders first.

        Args:
            path: Below the input folder, with ``/``.

        Returns:
            The text of each placeholder, once per way; empty where the path does not match. Ways
            in which ``{frame}`` is a number alone go before all others.

        Raises:
            UserError: There are more than ``MAX_READINGS`` ways.
        """
        found = list(islice(_read(self.tokens, path, {}), MAX_READINGS + 1))
        if len(found) > MAX_READINGS:
            raise UserError(
                f"{self.option} {self.text!r} can be read in more than {MAX_READINGS} ways for "
                f"{path}; put fixed text between the placeholders"
            )
        return sorted(found, key=lambda binding: not binding.get(FRAME, "0").isdecimal())

    def filled(self, binding: Binding) -> str:
        """Returns the pattern with the placeholders of ``binding`` filled in."""
        return "".join(
            token.text
            if token.name is None
            else binding.get(
                token.name, token.text if token.name[0] == "*" else f"{{{token.name}}}"
            )
            for token in self.tokens
        )


def parse_pattern(text: str, option: str) -> Pattern:
    """Checks a pattern and takes it apart.

    Args:
        text: The pattern.
        option: The option that holds it, for messages.

    Raises:
        UserError: Braces do not match, a placeholder is no name, ``**`` is a part of a name, or the
            pattern leaves the folder.
    """
    if not text or text.startswith("/") or ".." in text.split("/"):
        raise UserError(f"{option} {text!r} must be a pattern of paths below the input folder")
    tokens = []
    for piece in _TOKEN.findall(text):
        match = _PLACEHOLDER.fullmatch(piece)
        if match:
            tokens.append(_Token(match[2] or "", match[1]))
        elif piece[0] in "{}":
            several = "alternatives such as {a,b} are not known; " if "," in piece else ""
            raise UserError(
                f"{option} {text!r}: {piece!r} is no placeholder; {several}write {{name}}, "
                "with letters, digits and _"
            )
        else:
            tokens.append(_Token(piece, f"*{len(tokens)}" if piece[0] in "*?[" else None))
    pattern = Pattern(text, option, tuple(tokens))
    if any("**" in part and part != "**" for part in pattern.glob.split("/")):
        raise UserError(f"{option} {text!r}: ** stands for whole folders; write **/ or one star")
    return pattern


def _read(tokens: tuple[_Token, ...], text: str, bound: Binding) -> Iterator[Binding]:
    """Yields the bindings under which all of ``tokens`` match all of ``text``."""
    if not tokens:
        if not text:
            yield bound
        return
    token, rest = tokens[0], tokens[1:]
    if token.name is None or token.name in bound:
        fixed = token.text if token.name is None else bound[token.name]
        if text.startswith(fixed):
            yield from _read(rest, text[len(fixed) :], bound)
        return
    following = rest[0].text if rest and rest[0].name is None else ""
    for end in _ends(token, text):
        # most ends fail at the fixed text that follows; looking first saves the call
        if text.startswith(following, end):
            yield from _read(rest, text[end:], {**bound, token.name: text[:end]})


def _ends(token: _Token, text: str) -> Iterator[int]:
    """Yields how many characters of ``text`` a wild card or placeholder may take, fewest first."""
    part = text.find("/") if "/" in text else len(text)
    if token.name and token.name[0] != "*":
        for end in range(0 if token.name == OBJECT else 1, part + 1):
            if not token.text or fnmatchcase(text[:end], token.text):
                yield end
    elif token.text == "**/":
        yield 0
        yield from (match.end() for match in re.finditer("/", text))
    elif token.text == "**":
        yield from range(len(text) + 1)
    elif token.text == "*":
        yield from range(part + 1)
    elif part and fnmatchcase(text[0], token.text):
        yield 1
