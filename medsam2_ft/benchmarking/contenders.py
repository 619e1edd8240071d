"""From what the user calls models to models that are there, and those that are not."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medsam2_ft.benchmarking.jobs import Contender, ModelSource, load, model_key
from medsam2_ft.errors import UserError
from medsam2_ft.propagate import Strategy
from medsam2_ft.segmenter import Segmenter


@dataclass(frozen=True)
class Lineup:
    """The models of a run.

    Attributes:
        contenders: Those that can be run.
        skipped: Name -> why not, and what to put where.
    """

    contenders: Sequence[Contender]
    skipped: dict[str, str] = field(default_factory=dict)


def line_up(
    models: Sequence[str],
    strategies: Sequence[Strategy] | None,
    *,
    image_size: int | None,
    device: str,
) -> Lineup:
    """Loads every model once, so that a missing or damaged file is known before the work begins.

    Args:
        models: Names or files, each as it is or as ``NAME=FILE`` for a name in tables.
        strategies: What each is run with, as far as it can; None is each model's own.
        image_size: Side of the input of all models, None for each model's own.
        device: Where they run.

    Returns:
        The models in the given order. What cannot be loaded is skipped.

    Raises:
        UserError: A model is named twice, or none can be loaded.
    """
    contenders: list[Contender] = []
    skipped: dict[str, str] = {}
    for text in models:
        given, source = _named(text)
        where = ModelSource(source, image_size, device)
        try:
            segmenter = load(where, anew=True)
        except UserError as error:
            skipped[given or source] = " ".join(str(error).split())
            continue
        possible = _strategies(segmenter, strategies)
        if not possible:
            skipped[given or segmenter.name] = (
                f"cannot propagate by {' or '.join(strategies or ())}, only by "
                f"{' or '.join(segmenter.strategies)}"
            )
            continue
        name = given or segmenter.name
        contenders.append(Contender(name, model_key(segmenter, where), where, possible))
    if not contenders:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise UserError(f"no model to evaluate: {reasons or 'give --models'}")
    return Lineup(_told_apart(contenders), skipped)


def _named(text: str) -> tuple[str, str]:
    """Splits ``NAME=FILE``; the name is empty where there is none."""
    name, equals, source = text.partition("=")
    if equals and name and source and not Path(text).exists():
        return name, source
    return "", text


def _strategies(segmenter: Segmenter, wanted: Sequence[Strategy] | None) -> tuple[Strategy, ...]:
    if wanted is None:
        return (segmenter.strategy,)
    return tuple(one for one in dict.fromkeys(wanted) if one in segmenter.strategies)


def _told_apart(contenders: Sequence[Contender]) -> list[Contender]:
    """Puts the file in the place of names that occur twice."""
    counts = Counter(contender.name for contender in contenders)
    named = [c if counts[c.name] == 1 else replace(c, name=c.where.source) for c in contenders]
    twice = [name for name, count in Counter(c.name for c in named).items() if count > 1]
    if twice:
        raise UserError(
            f"--models: {twice[0]} is given twice; name models apart as NAME=FILE, or leave one out"
        )
    return named
