"""Which models there are: a YAML list, official weights that lie ready, and watched exports."""

import glob
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from medsam2_ft.errors import UserError
from medsam2_ft.intensity import parse_rule
from medsam2_ft.types import IntensityRule
from medsam2_ft.weights import VARIANTS, checkpoint_folder

Origin = Literal["registry", "official", "export"]
_FIELDS = {"id", "file", "sha256", "image_size", "intensity", "strategy"}


@dataclass(frozen=True)
class Entry:
    """A model that can be chosen.

    Attributes:
        model_id: How clients name it.
        source: What ``models.load_model`` takes.
        origin: Where it was found.
        sha256: Of the file, where it is known; compared when it is loaded.
        image_size: Side of the input; None is the file's own.
        rule: Turns images to 0-255 for it; None chooses by modality.
        strategy: None is the file's own.
    """

    model_id: str
    source: str
    origin: Origin
    sha256: str | None = None
    image_size: int | None = None
    rule: IntensityRule | None = None
    strategy: str | None = None


class Registry:
    """Finds models anew whenever it is asked, so that exports appear without a restart.

    Args:
        models: YAML list; files in it are relative to it. None where there is none.
        watch: Folders of exports; ``*`` stands for any name.

    Raises:
        UserError: The list is not valid.
    """

    def __init__(self, models: Path | None = None, watch: Sequence[str] = ()) -> None:
        self.listed = [] if models is None else read_registry(models)
        self.watch = tuple(watch)

    def entries(self) -> dict[str, Entry]:
        """Returns the models by id; listed ones first, which win over others of the same id."""
        found: dict[str, Entry] = {}
        for entry in [*self.listed, *_official(), *_exports(self.watch)]:
            found.setdefault(entry.model_id, entry)
        return found


def read_registry(path: Path) -> list[Entry]:
    """Reads a YAML list of models.

    Raises:
        UserError: It cannot be read, an entry is not valid, or a file is missing.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: cannot be read as YAML ({reason}); give a list of models") from (
            error
        )
    if not isinstance(content, list):
        raise UserError(f"{path}: is not a list; write '- id: ...' and 'file: ...' for each model")
    entries = [_entry(path, row) for row in content]
    ids = [entry.model_id for entry in entries]
    twice = sorted({model_id for model_id in ids if ids.count(model_id) > 1})
    if twice:
        raise UserError(f"{path}: {twice[0]} is listed twice; give each model its own id")
    return entries


def _entry(path: Path, row: Any) -> Entry:
    if not isinstance(row, dict) or not {"id", "file"} <= row.keys():
        raise UserError(f"{path}: {str(row)[:80]!r} is no model; it needs id and file")
    unknown = sorted(map(str, row.keys() - _FIELDS))
    if unknown:
        known = ", ".join(sorted(_FIELDS))
        raise UserError(f"{path}: {row['id']} has an unknown field {unknown[0]}; there are {known}")
    file = str(row["file"])
    if file not in VARIANTS and not file.startswith("random:"):
        place = path.parent / Path(file).expanduser()
        if not place.is_file():
            raise UserError(f"{path}: {row['id']}: there is no file {place}; correct the path")
        file = str(place)
    size, strategy = row.get("image_size"), row.get("strategy")
    if size is not None and (not isinstance(size, int) or size <= 0):
        raise UserError(f"{path}: {row['id']}: image_size {size!r} is no number of pixels")
    if strategy not in (None, "box", "memory"):
        raise UserError(f"{path}: {row['id']}: strategy {strategy!r} is neither box nor memory")
    rule = None
    if row.get("intensity") is not None:
        try:
            rule = parse_rule(json.dumps(row["intensity"]))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: {row['id']}: intensity: {error}") from error
    sha256 = None if row.get("sha256") is None else str(row["sha256"]).lower()
    return Entry(str(row["id"]), file, "registry", sha256, size, rule, strategy)


def _official() -> list[Entry]:
    folder = checkpoint_folder()
    return [
        Entry(name, name, "official", variant.sha256)
        for name, variant in VARIANTS.items()
        if (folder / variant.checkpoint).is_file()
    ]


def _exports(watch: Sequence[str]) -> list[Entry]:
    """Exports with their sidecar, which is written last and says that the file is complete."""
    found = []
    for pattern in watch:
        for folder in sorted(Path(name) for name in glob.glob(pattern)):  # noqa: PTH207 (absolute too)
            for file in sorted(folder.glob("*.pt")):
                sidecar = file.with_suffix(".json")
                if sidecar.is_file():
                    found.append(_export(file, sidecar))
    return found


def _export(file: Path, sidecar: Path) -> Entry:
    run = file.resolve().parent.parent.name
    try:
        stored = json.loads(sidecar.read_text(encoding="utf-8"))
        sha256 = stored.get("sha256")
        size, strategy = stored.get("image_size"), stored.get("strategy")
    except (OSError, ValueError, AttributeError):
        sha256 = size = strategy = None  # loading it says what is wrong
    return Entry(f"{run}/{file.stem}", str(file), "export", sha256, size, None, strategy)


def check_sha256(entry: Entry) -> None:
    """Refuses a listed file whose content is not the listed one.

    Raises:
        UserError: See above.
    """
    path = Path(entry.source)
    if entry.origin != "registry" or entry.sha256 is None or not path.is_file():
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != entry.sha256:
        raise UserError(
            f"model {entry.model_id}: the file's sha256 {digest} is not the listed one; correct "
            "the list or the file"
        )
