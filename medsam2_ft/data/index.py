"""One table over all slices of a split, read from disk by every worker.

The arrays are memory-mapped: a worker's memory does not grow with the number of cases, and passing
the index to a worker passes a path.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from medsam2_ft.data.case_arrays import OBJECT_COLUMNS, SliceReader, Z
from medsam2_ft.data.store import StoredCase, locked

# Columns of the case table.
DEPTH, HEIGHT, WIDTH, CHANNELS, MAPS = range(5)


class SliceIndex:
    """Slices of some cases, numbered from 0: all slices of the first case, then of the second ...

    Args:
        folder: Folder that ``SliceIndex.create`` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, root: Path, cases: Sequence[StoredCase]) -> "SliceIndex":
        """Writes the index of some cases below ``<root>/index``, unless it is there.

        Args:
            root: Folder of the store.
            cases: In the order that numbers their slices.
        """
        names = [case.folder for case in cases]
        key = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        target = root / "index" / key
        with locked(root):
            if not target.is_dir():
                temporary = root / "index" / ".tmp"  # one at a time: the lock is held
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
                _write(temporary, root / "cases", cases)
                temporary.rename(target)
        return cls(target)

    def __getstate__(self) -> dict[str, Any]:
        """Passes the path alone; the receiver maps the files itself."""
        return {"folder": self.folder}

    @cached_property
    def case_folders(self) -> np.ndarray:
        """Folder name of each case, a unicode array."""
        return self._load("folders")

    @cached_property
    def cases(self) -> Int64[np.ndarray, "cases 5"]:
        """Depth, height, width, channels and label maps of each case."""
        return self._load("cases")

    @cached_property
    def slices(self) -> Int32[np.ndarray, "slices 2"]:
        """Case number and z of each slice."""
        return self._load("slices")

    @cached_property
    def starts(self) -> Int64[np.ndarray, " boundaries"]:
        """First row in ``objects`` of each slice; the next slice's is its end."""
        return self._load("starts")

    @cached_property
    def objects(self) -> Int32[np.ndarray, "objects 8"]:
        """``z, map, label, area, x0, y0, x1, y1`` of every label in every slice."""
        return self._load("objects")

    @cached_property
    def reader(self) -> SliceReader:
        """Reads the slices themselves."""
        return SliceReader(self.folder.parent.parent / "cases")

    def objects_of(self, slice_id: int) -> Int32[np.ndarray, "objects 8"]:
        """Returns the rows of one slice, ascending by map and label."""
        return np.asarray(self.objects[self.starts[slice_id] : self.starts[slice_id + 1]])

    def labels_per_slice(self) -> Int64[np.ndarray, " slices"]:
        """Returns how many labels each slice holds."""
        return np.diff(self.starts)

    def _load(self, name: str) -> np.ndarray:
        file = self.folder / f"{name}.npy"
        # An empty array cannot be mapped.
        small = file.stat().st_size < 1024
        array: np.ndarray = np.load(file, mmap_mode=None if small else "r", allow_pickle=False)
        return array


def _write(folder: Path, cases_dir: Path, cases: Sequence[StoredCase]) -> None:
    facts = [case.facts for case in cases]
    shapes = [(f.depth, f.height, f.width, f.channels, f.maps) for f in facts]
    tables = [np.load(cases_dir / case.folder / "objects.npy") for case in cases]
    counts = [
        np.bincount(table[:, Z], minlength=f.depth) for table, f in zip(tables, facts, strict=True)
    ]
    slices = [
        np.stack([np.full(f.depth, number), np.arange(f.depth)], axis=1)
        for number, f in enumerate(facts)
    ]
    arrays = {
        "folders": np.array([case.folder for case in cases], dtype=np.str_),
        "cases": np.array(shapes, np.int64).reshape(-1, 5),
        "slices": np.concatenate([np.zeros((0, 2)), *slices]).astype(np.int32),
        "starts": np.concatenate([[0], np.cumsum(np.concatenate([[], *counts]))]).astype(np.int64),
        "objects": np.concatenate([np.zeros((0, OBJECT_COLUMNS), np.int32), *tables]),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    text = json.dumps([case.folder for case in cases])
    (folder / "cases.json").write_text(text, encoding="utf-8")
