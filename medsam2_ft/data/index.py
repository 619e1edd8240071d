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

from medsam2_ft.data.case_arrays import (
    AREA,
    LABEL,
    MAP,
    OBJECT_COLUMNS,
    X0,
    X1,
    Y0,
    Y1,
    CaseFacts,
    SliceReader,
    Z,
)
from medsam2_ft.data.store import StoredCase, locked
from medsam2_ft.types import MODALITIES

# Columns of the case table.
DEPTH, HEIGHT, WIDTH, CHANNELS, MAPS, MODALITY = range(6)
CASE_COLUMNS = 6
# Names of the modality codes in that table; the last one is for cases that state none.
UNKNOWN_MODALITY = "unknown"
MODALITY_NAMES = (*MODALITIES, UNKNOWN_MODALITY)


class SliceIndex:
    """Slices of some cases, numbered from 0: all slices of the first case, then of the second ...

    Args:
        folder: Folder that ``SliceIndex.create`` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(
        cls, root: Path, cases: Sequence[StoredCase], *, regions: bool = False
    ) -> "SliceIndex":
        """Writes the index of some cases below ``<root>/index``, unless it is there.

        Args:
            root: Folder of the store.
            cases: In the order that numbers their slices.
            regions: Whether regions are objects beside the labels that make them up.
        """
        names = [case.folder for case in cases] + (["regions"] if regions else [])
        key = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        target = root / "index" / key
        with locked(root):
            if not target.is_dir():
                temporary = root / "index" / ".tmp"  # one at a time: the lock is held
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
                _write(temporary, root / "cases", cases, regions)
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
    def cases(self) -> Int64[np.ndarray, "cases 6"]:
        """Depth, height, width, channels, label maps and modality code of each case."""
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
        """``z, map, label, area, x0, y0, x1, y1`` of every label in every slice.

        A region stands behind the last map, with its number in the case for a label; its area is
        the sum of its labels'.
        """
        return self._load("objects")

    @cached_property
    def regions(self) -> Int32[np.ndarray, "members 3"]:
        """Case, number of the region and label id of every label that a region is made of."""
        return self._load("regions")

    @cached_property
    def reader(self) -> SliceReader:
        """Reads the slices themselves."""
        return SliceReader(self.folder.parent.parent / "cases")

    def objects_of(self, slice_id: int) -> Int32[np.ndarray, "objects 8"]:
        """Returns the rows of one slice, ascending by map and label."""
        return np.asarray(self.objects[self.starts[slice_id] : self.starts[slice_id + 1]])

    def region_labels(self, case: int, region: int) -> Int32[np.ndarray, " labels"]:
        """Returns the label ids that make up a region."""
        own = (self.regions[:, 0] == case) & (self.regions[:, 1] == region)
        return np.asarray(self.regions[own, 2])

    def labels_per_slice(self) -> Int64[np.ndarray, " slices"]:
        """Returns how many labels each slice holds."""
        return np.diff(self.starts)

    def _load(self, name: str) -> np.ndarray:
        file = self.folder / f"{name}.npy"
        # An empty array cannot be mapped.
        small = file.stat().st_size < 1024
        array: np.ndarray = np.load(file, mmap_mode=None if small else "r", allow_pickle=False)
        return array


def _write(folder: Path, cases_dir: Path, cases: Sequence[StoredCase], with_regions: bool) -> None:
    facts = [case.facts for case in cases]
    rows = [
        (f.depth, f.height, f.width, f.channels, f.maps, _modality_code(f.modality)) for f in facts
    ]
    tables = [np.load(cases_dir / case.folder / "objects.npy") for case in cases]
    if with_regions:
        tables = [_add_regions(table, f) for table, f in zip(tables, facts, strict=True)]
    counts = [
        np.bincount(table[:, Z], minlength=f.depth) for table, f in zip(tables, facts, strict=True)
    ]
    slices = [
        np.stack([np.full(f.depth, number), np.arange(f.depth)], axis=1)
        for number, f in enumerate(facts)
    ]
    arrays = {
        "folders": np.array([case.folder for case in cases], dtype=np.str_),
        "cases": np.array(rows, np.int64).reshape(-1, CASE_COLUMNS),
        "slices": np.concatenate([np.zeros((0, 2)), *slices]).astype(np.int32),
        "starts": np.concatenate([[0], np.cumsum(np.concatenate([[], *counts]))]).astype(np.int64),
        "objects": np.concatenate([np.zeros((0, OBJECT_COLUMNS), np.int32), *tables]),
        "regions": _region_table(facts if with_regions else []),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    # What the store checks to tell a table of cases that are gone; it knows its own cases only.
    own = [case.folder for case in cases if "/" not in case.folder]
    (folder / "cases.json").write_text(json.dumps(own), encoding="utf-8")


def _modality_code(modality: str | None) -> int:
    return MODALITY_NAMES.index(modality or UNKNOWN_MODALITY)


def _region_table(facts: Sequence[CaseFacts]) -> Int32[np.ndarray, "members 3"]:
    members = [
        (case, region, label)
        for case, f in enumerate(facts)
        for region, (_, labels) in enumerate(f.regions)
        for label in labels
    ]
    return np.array(members, np.int32).reshape(-1, 3)


def _add_regions(
    table: Int32[np.ndarray, "r 8"], facts: CaseFacts
) -> Int32[np.ndarray, "r_and_regions 8"]:
    """Adds a row for every (slice, region) that occurs, from those of the region's labels."""
    tables = [table]
    for number, (_, labels) in enumerate(facts.regions):
        rows = table[np.isin(table[:, LABEL], labels)]
        if len(rows) == 0:
            continue
        starts = np.flatnonzero(np.diff(rows[:, Z], prepend=-1))
        region = rows[starts].copy()
        region[:, MAP], region[:, LABEL] = facts.maps, number
        region[:, AREA] = np.add.reduceat(rows[:, AREA], starts)
        for column, join in (
            (X0, np.minimum),
            (Y0, np.minimum),
            (X1, np.maximum),
            (Y1, np.maximum),
        ):
            region[:, column] = join.reduceat(rows[:, column], starts)
        tables.append(region)
    joined = np.concatenate(tables)
    return joined[np.lexsort((joined[:, LABEL], joined[:, MAP], joined[:, Z]))]
