"""The data sets of a run: their folders and the names that options and tables call them by."""

import os
from collections.abc import Sequence
from pathlib import Path

from medsam2_ft.errors import UserError


def named_folders(data_dir: str | Sequence[str]) -> dict[str, Path]:
    """Names each data folder by its last part, or by as many parts as tell it from the others.

    Args:
        data_dir: One folder or several.

    Returns:
        Name -> folder in the given order; ``cases`` for ``/data/cases`` alone, ``ct/cases`` and
        ``mr/cases`` for ``/data/ct/cases`` and ``/data/mr/cases``.

    Raises:
        UserError: No folder, or one of them twice.
    """
    folders = [Path(data_dir)] if isinstance(data_dir, str) else [Path(f) for f in data_dir]
    if not folders:
        raise UserError("data.data_dir is an empty list; name at least one folder of npz cases.")
    parts = [_absolute(folder).parts for folder in folders]
    for folder, own in zip(folders, parts, strict=True):
        if parts.count(own) > 1:
            raise UserError(f"{folder}: stands in data.data_dir twice; take one of them out.")
    return {_name(own, parts): folder for own, folder in zip(parts, folders, strict=True)}


def _absolute(folder: Path) -> Path:
    """Without ``.`` and ``..``, links as they are: a name is what the user calls the folder."""
    return Path(os.path.abspath(folder))  # noqa: PTH100 - Path.resolve follows links


def _name(own: tuple[str, ...], every: Sequence[tuple[str, ...]]) -> str:
    length = 1
    while sum(parts[-length:] == own[-length:] for parts in every) > 1:
        length += 1
    return "/".join(part for part in own[-length:] if part != os.sep)
