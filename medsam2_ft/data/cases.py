"""Whole cases, for prediction."""

from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from medsam2_ft.io.npz import read_case
from medsam2_ft.types import Case


class CaseDataset(Dataset[Case]):
    """Reads npz cases one at a time.

    Args:
        paths: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Case:
        """Returns a case; raises ``UserError`` where it cannot be read."""
        return read_case(self.paths[index])
