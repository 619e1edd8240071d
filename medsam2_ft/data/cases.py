"""Whole cases, for prediction and validation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch.utils.data import Dataset

from medsam2_ft.io.npz import read_case
from medsam2_ft.types import Case


@dataclass(frozen=True)
class NamedCase:
    """A case file.

    Attributes:
        name: What tables and predictions call it: the file's stem, with its data set in front
            where there are several.
        path: The npz file.
    """

    name: str
    path: Path

    def read(self) -> Case:
        """Returns the case under its name; raises ``UserError`` where it cannot be read."""
        return replace(read_case(self.path), name=self.name)


class CaseDataset(Dataset[Case]):
    """Reads npz cases one at a time.

    Args:
        cases: The files.
    """

    def __init__(self, cases: Sequence[NamedCase]) -> None:
        self.cases = cases

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.cases)

    def __getitem__(self, index: int) -> Case:
        """Returns a case; raises ``UserError`` where it cannot be read."""
        return self.cases[index].read()
