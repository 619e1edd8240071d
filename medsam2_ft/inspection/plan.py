"""Which cases go on which picture, and where the pictures go."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from medsam2_ft.errors import UserError
from medsam2_ft.inspection.folder import find_case_files
from medsam2_ft.inspection.summary import UNKNOWN
from medsam2_ft.inspection.unprepared import Conversion
from medsam2_ft.io.npz import case_header, read_case
from medsam2_ft.io.npz_zip import open_npz
from medsam2_ft.types import Case

DEFAULT_FILE, DEFAULT_FOLDER = Path("preview.png"), Path("preview")


@dataclass(frozen=True)
class Item:
    """Something to draw.

    Attributes:
        path: An npz case, or an image in any format that ``prepare`` reads.
        name: What to call it; unique only within its folder.
        modality: What is known of it before it is read.
        is_case: Whether it is an npz case.
    """

    path: Path
    name: str
    modality: str | None
    is_case: bool

    def read(self, conversion: Conversion) -> Case:
        """Reads the case, or makes one of the image.

        Raises:
            UserError: It cannot be read.
        """
        case = read_case(self.path) if self.is_case else conversion.case(self.path)
        return replace(case, name=self.name) if self.is_case else case


@dataclass(frozen=True)
class Sheet:
    """One picture.

    Attributes:
        name: Its file name, without suffix.
        title: Its first line, where there are several cases on it.
        items: What is on it.
    """

    name: str
    title: str
    items: tuple[Item, ...]


def find_items(
    paths: Sequence[Path], modality: str | None, on_bad: Callable[[UserError], None]
) -> list[Item]:
    """Lists what there is to draw.

    Args:
        paths: npz cases, folders of them, or images; a folder without npz files is one image.
        modality: Of images that are not cases.
        on_bad: Called for a case of a folder that cannot be read, and left out.

    Raises:
        UserError: A path does not exist, or a case that was given by its path cannot be read.
    """
    items = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; check the path")
        if path.is_dir() and any(path.rglob("*.npz")):
            for case in find_case_files(path):
                try:
                    items.append(_case(case.path, Path(case.file)))
                except UserError as error:
                    on_bad(error)
        elif path.suffix.lower() == ".npz":
            items.append(_case(path, Path(path.name)))
        else:
            items.append(Item(path, path.name, modality, is_case=False))
    return items


def _case(path: Path, shown: Path) -> Item:
    with open_npz(path) as reader:
        if "imgs" not in reader:
            raise UserError(f"{path}: holds no image (imgs); give the case, not its labels")
    name = shown.with_suffix("").as_posix()
    return Item(path, name, case_header(path).modality, is_case=True)


def plan_sheets(items: Sequence[Item], max_cases: int, *, per_case: bool) -> list[Sheet]:
    """Puts cases on pictures: one for each case, or one for each modality.

    Args:
        items: What there is.
        max_cases: The most cases of a picture; of more, some are taken at even distances.
        per_case: One picture for each case.

    Returns:
        In the order of the items, or by modality.
    """
    if per_case:
        return [Sheet(_file_name(item.name), "", (item,)) for item in items]
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.modality or UNKNOWN].append(item)
    sheets = []
    for modality, group in sorted(groups.items()):
        step = max(len(group) / max_cases, 1)
        shown = tuple(group[int(i * step)] for i in range(min(len(group), max_cases)))
        count = f"{len(shown)} of {len(group)}" if len(shown) < len(group) else str(len(group))
        name = _file_name(shown[0].name) if len(items) == 1 else _file_name(modality)
        known = f"modality {UNKNOWN}" if modality == UNKNOWN else modality
        sheets.append(Sheet(name, f"{known}: {count} cases", shown))
    return sheets


def _file_name(text: str) -> str:
    """A name without folders."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("._") or "case"


def target_files(names: Sequence[str], out: Path | None) -> list[Path]:
    """Returns the file of every picture.

    Args:
        names: Names of the pictures; where two are equal, they get numbers.
        out: PNG file for one picture, or folder. None: ``DEFAULT_FILE`` for one picture,
            ``DEFAULT_FOLDER`` for several.

    Raises:
        UserError: One file for several pictures.
    """
    if out is None:
        out = DEFAULT_FILE if len(names) == 1 else DEFAULT_FOLDER
    if out.suffix.lower() != ".png" or out.is_dir():
        return [out / f"{name}.png" for name in _numbered(names)]
    if len(names) > 1:
        raise UserError(
            f"--out {out}: is one file and there are {len(names)} pictures "
            f"({', '.join(names[:3])}, ...); give a folder"
        )
    return [out]


def _numbered(names: Iterable[str]) -> list[str]:
    taken: set[str] = set()
    result = []
    for name in names:
        free, number = name, 1
        while free.lower() in taken:  # some file systems do not tell A from a
            number += 1
            free = f"{name}-{number}"
        taken.add(free.lower())
        result.append(free)
    return result


def check_replaceable(path: Path, software: str) -> None:
    """Makes sure that a file does not exist or is a PNG that ``software`` wrote.

    Raises:
        UserError: It is something else.
    """
    if not path.exists():
        return
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            made_here = picture.info.get("Software") == software
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError):
        made_here = False
    if not made_here:
        raise UserError(
            f"{path}: exists and is no preview; give another --out, or --overwrite to replace it"
        )
