"""What is installed, and where; standard library only."""

import importlib.metadata
import sys
from collections.abc import Iterable
from pathlib import Path

from medsam2_ft.errors import UserError

DISTRIBUTION = "medsam2-ft"


def installed_version(name: str) -> str | None:
    """Returns the version of a distribution, None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def extras() -> list[str]:
    """Returns the names of our extras."""
    return importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []


def missing_packages(extra: str | None = None) -> list[str]:
    """Returns the requirements that are not installed, or not at an allowed version.

    Args:
        extra: Name of an extra, for what it adds; None for what the package always needs.

    Returns:
        Requirements in the form of ``torch>=2.7``; empty if all are there.
    """
    # pip cannot do without it, but an environment made by another installer may lack it
    if installed_version("packaging") is None:
        return ["packaging"]
    return list(_missing(importlib.metadata.requires(DISTRIBUTION) or [], extra))


def _missing(requirements: Iterable[str], extra: str | None) -> Iterable[str]:
    """Yields the requirements of ``extra`` (None: those of no extra) that are not fulfilled."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        base = marker is None or marker.evaluate({"extra": ""})
        chosen = marker is None or marker.evaluate({"extra": extra or ""})
        wanted = base if extra is None else chosen and not base
        version = installed_version(requirement.name)
        if wanted and (
            version is None or not requirement.specifier.contains(version, prereleases=True)
        ):
            yield f"{requirement.name}{requirement.specifier}"


def configs_folder() -> Path:
    """Returns where the YAML recipes lie: in the repository, or where the wheel puts them.

    Raises:
        UserError: Neither folder is there.
    """
    beside = Path(__file__).resolve().parents[1] / "configs"
    installed = Path(sys.prefix) / "share" / "medsam2-ft" / "configs"
    for folder in (beside, installed):
        if (folder / "finetune.yaml").is_file():
            return folder
    raise UserError(f"{installed}: the recipes are not there; install medsam2-ft again")
