"""Segments the images of a folder: resumes, goes on past failures, loses one case at most.

Beside every segmentation ``NAME.nii.gz`` lies ``NAME.segment.json``: what it was made of and how.
It is written last. A case is skipped when its file says the same as what would be done now, by
the sha256 of image, labels, mask and model, the prompts and the settings.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medsam2_ft import __version__
from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import make_folder, write_json
from medsam2_ft.prepare.checksums import sha256_of, source_checksums
from medsam2_ft.prepare.report import progress
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.segmenting.items import Item
from medsam2_ft.segmenting.job import How, Outcome, segment_item
from medsam2_ft.segmenting.prompting import given_for

SIDECAR = ".segment.json"
_SHOWN = 5


@dataclass(frozen=True)
class Targets:
    """Where results go.

    Attributes:
        folder: The folder.
        suffix: Format of the segmentations.
        overlay: Suffix of the overlays, "" for none.
    """

    folder: Path
    suffix: str
    overlay: str = ""

    def out(self, item: Item) -> Path:
        """Returns the segmentation of an image."""
        return self.folder / f"{item.name}{self.suffix}"

    def picture(self, item: Item) -> Path | None:
        """Returns its overlay."""
        return self.folder / f"{item.name}_overlay{self.overlay}" if self.overlay else None

    def sidecar(self, item: Item) -> Path:
        """Returns the file that says how it was made."""
        return self.folder / f"{item.name}{SIDECAR}"

    def all(self, item: Item) -> list[Path]:
        """Returns every file that is written for an image."""
        picture = self.picture(item)
        return [self.out(item), self.sidecar(item), *([] if picture is None else [picture])]


@dataclass(frozen=True)
class Done:
    """One case, for the progress display.

    Attributes:
        name: Of the case.
        line: What happened.
        is_failed: Whether it failed.
        is_kept: Whether it was done before.
    """

    name: str
    line: str
    is_failed: bool = False
    is_kept: bool = False


def segment_batch(
    items: Sequence[Item],
    load: Callable[[], Segmenter],
    model: Mapping[str, Any],
    how: How,
    targets: Targets,
    *,
    overwrite: bool,
) -> list[Done]:
    """Segments images one after the other.

    Args:
        items: The images.
        load: Gives the model; called where there is something to do.
        model: What tells the model from others.
        how: How.
        targets: Where results go.
        overwrite: Do everything again.

    Returns:
        One entry for each image.

    Raises:
        UserError: Cases failed; all others have been done.
        KeyboardInterrupt: After Ctrl-C; says what is done.
    """
    make_folder(targets.folder)
    done: list[Done] = []
    with progress("segmenting", len(items), _line, _is_remarkable) as show:
        for item in items:
            with _interruptible(done, items):
                done.append(_one(item, load, model, how, targets, overwrite=overwrite))
            show(done[-1])
    _complain(done, targets.folder)
    return done


def _one(
    item: Item,
    load: Callable[[], Segmenter],
    model: Mapping[str, Any],
    how: How,
    targets: Targets,
    *,
    overwrite: bool,
) -> Done:
    try:
        key = case_key(item, model, how, targets)
        if not overwrite and is_done(item, key, targets):
            return Done(item.name, "is there already", is_kept=True)
        outcome = segment_item(load, item, how, targets.out(item), targets.picture(item))
        write_json(targets.sidecar(item), _record(item, key, outcome, targets))
    except UserError as error:
        return Done(item.name, f"failed: {error}", is_failed=True)
    return Done(item.name, outcome.summary)


def case_key(item: Item, model: Mapping[str, Any], how: How, targets: Targets) -> dict[str, Any]:
    """Returns everything that a result depends on, as plain containers.

    Raises:
        UserError: A file cannot be read.
    """
    assert item.pair is not None, "items of a batch know their files"
    wanted = asdict(how.wanted)
    wanted["given"] = [asdict(prompt) for prompt in given_for(how.wanted.given, item.name)]
    wanted["mask"] = None if how.wanted.mask is None else sha256_of(how.wanted.mask)
    content = {
        "version": __version__,
        "files": source_checksums(item.pair),
        "model": dict(model),
        "reading": asdict(how.reading),
        "wanted": wanted,
        "strategy": how.strategy,
        "overlap": how.overlap,
        "suffix": targets.suffix,
        "overlay": targets.overlay,
    }
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return plain


def is_done(item: Item, key: Mapping[str, Any], targets: Targets) -> bool:
    """Whether the segmentation of an image is there, whole, and made in the same way."""
    picture = targets.picture(item)
    try:
        stored = json.loads(targets.sidecar(item).read_text(encoding="utf-8"))
        same = stored["made_of"] == key and stored["sha256"] == sha256_of(targets.out(item))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(same) and (picture is None or picture.is_file())


def model_identity(source: str, image_size: int | None) -> dict[str, Any]:
    """Returns what tells a model from others: its name, or its file's sha256 and its sidecar's."""
    identity: dict[str, Any] = {"source": source, "image_size": image_size}
    path = Path(source).expanduser()
    if path.is_file():
        identity["sha256"] = sha256_of(path)
        sidecar = path.with_suffix(".json")
        if sidecar.is_file():
            identity["sidecar"] = hashlib.sha256(sidecar.read_bytes()).hexdigest()
    return identity


def _record(
    item: Item, key: Mapping[str, Any], outcome: Outcome, targets: Targets
) -> dict[str, Any]:
    return {
        "case": item.name,
        "file": targets.out(item).name,
        "sha256": sha256_of(targets.out(item)),
        "objects": [asdict(found) for found in outcome.objects],
        "prompts": outcome.origin,
        "notes": list(outcome.notes),
        "seconds": round(outcome.seconds, 3),
        "made_of": key,
    }


@contextmanager
def _interruptible(done: Sequence[Done], items: Sequence[Item]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted: {len(done)} of {len(items)} cases are done; the same command goes on"
        ) from None


def _line(done: Done) -> str:
    return f"{done.name}: {done.line}"


def _is_remarkable(done: Done) -> bool:
    return not done.is_kept


def _complain(done: Sequence[Done], folder: Path) -> None:
    failed = [entry for entry in done if entry.is_failed]
    if not failed:
        return
    reasons = "; ".join(_line(entry) for entry in failed[:_SHOWN])
    more = f"; and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    raise UserError(
        f"{len(failed)} of {len(done)} cases failed: {reasons}{more}; {len(done) - len(failed)} "
        f"are in {folder}, correct the others and run again: only they are tried again"
    )
