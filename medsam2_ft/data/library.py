"""The cases of all data sets by split, in their stores, with what they say about themselves."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medsam2_ft.data.cases import NamedCase
from medsam2_ft.data.index import UNKNOWN_MODALITY, SliceIndex
from medsam2_ft.data.splits import SPLITS, Split, find_splits
from medsam2_ft.data.store import StoredCase, locate_store, update_store
from medsam2_ft.errors import UserError

# Cases that a message names before it counts the rest.
NAMED_CASES = 10
# What to say where the split that a stage is about has no case.
WITHOUT: dict[Split, str] = {
    "train": "no case to train on; add cases with labels",
    "val": "no case to validate on; add cases with labels to a folder val, or set data.val_share",
    "test": "no case to test on; add cases with labels to a folder test, or set data.test_share",
}


class CaseLibrary:
    """Loads splits when they are first asked for; cases without labels are left out.

    Args:
        folders: Folder of npz cases of each data set, see ``splits.find_splits``.
        val_share: Share of cases drawn for validation where the folder does not say.
        test_share: Share of cases drawn for testing where the folder does not say.
        seed: Seed of that draw.
        store_dir: Where the slice stores go, None for the default.
        regions: Whether regions are objects beside the labels that make them up.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        *,
        val_share: float,
        test_share: float,
        seed: int,
        store_dir: Path | None,
        regions: bool = False,
    ) -> None:
        self.folders = dict(folders)
        self.val_share = val_share
        self.test_share = test_share
        self.seed = seed
        self.store_dir = store_dir
        self.regions = regions
        # By data set, in the order of ``folders``.
        self._cases: dict[Split, dict[str, list[StoredCase]]] = {}

    def load(self, splits: Iterable[Split], *, quiet: bool = True) -> None:
        """Brings the store up to date for some splits and opens them, unless they are open.

        Args:
            splits: The splits that are wanted.
            quiet: No progress bar, and no line about cases that are left out.

        Raises:
            UserError: If a folder, a case or a store is unusable, or no case of a data set has
                labels.
        """
        missing = [split for split in splits if split not in self._cases]
        if not missing:
            return
        loaded = {name: self._load(folder, missing, quiet) for name, folder in self.folders.items()}
        for split in missing:
            self._cases[split] = {name: by_split[split] for name, by_split in loaded.items()}
        self._check_leakage()

    def _check_leakage(self) -> None:
        """Refuses an image that is in two of the loaded splits, whatever its files are called."""
        seen: dict[str, tuple[Split, Path]] = {}
        for split, by_set in self._cases.items():
            for case in (case for cases in by_set.values() for case in cases):
                first, path = seen.setdefault(case.facts.image_sha256, (split, case.path))
                if first != split:
                    raise UserError(
                        f"{case.path} ({split}): the same image as {path} ({first}); a model would "
                        "be scored on what it has seen: take one of them out, or put both into "
                        "one split."
                    )

    def _load(
        self, folder: Path, missing: Sequence[Split], quiet: bool
    ) -> dict[Split, list[StoredCase]]:
        found = self._find(folder)
        stored = update_store(
            locate_store(folder, self.store_dir),
            [path for split in missing for path in found[split]],
            keep=[path for split in SPLITS for path in found[split]],
            quiet=quiet,
        )
        unusable = [case for case in stored if case.facts.why_unusable]
        if stored and len(unusable) == len(stored):
            raise UserError(
                f"{folder}: none of the {len(stored)} cases has labels (the first one, "
                f"{stored[0].path.name}: {stored[0].facts.why_unusable}); add label maps."
            )
        if unusable and not quiet:
            print(_skipped_line(unusable))
        usable = {case.path: case for case in stored if not case.facts.why_unusable}
        return {split: [usable[p] for p in found[split] if p in usable] for split in missing}

    def _find(self, folder: Path) -> dict[Split, list[Path]]:
        return find_splits(
            folder, val_share=self.val_share, test_share=self.test_share, seed=self.seed
        )

    def cases_to_predict(self) -> list[NamedCase]:
        """Returns the test cases or, where there are none, all cases; with labels or without.

        Files of one name in several folders of a data set are called by their folder, too.
        """
        found = {name: self._find(folder) for name, folder in self.folders.items()}
        tests = any(by_split["test"] for by_split in found.values())
        cases = []
        for name, by_split in found.items():
            paths = by_split["test"] if tests else sorted(p for s in by_split.values() for p in s)
            stems = Counter(path.stem for path in paths)
            for path in paths:
                below = path.relative_to(self.folders[name]).with_suffix("").as_posix()
                cases.append(self._named(name, path, path.stem if stems[path.stem] == 1 else below))
        return cases

    def volumes(self, split: Split) -> list[NamedCase]:
        """Returns the volumes and videos of a split or, where there are none, its images.

        What has one slice is scored with the slices; a split of images alone is scored here as
        well, so that there always is a score on the cases' own grid.
        """
        self.load([split])
        every = [(name, case) for name, cases in self._cases[split].items() for case in cases]
        deep = [(name, case) for name, case in every if case.facts.depth > 1]
        return [self._named(name, case.path, case.path.stem) for name, case in deep or every]

    def _named(self, data_set: str, path: Path, name: str) -> NamedCase:
        return NamedCase(name if len(self.folders) == 1 else f"{data_set}/{name}", path)

    def forget(self) -> None:
        """Makes the next ``load`` look at the files again."""
        self._cases = {}

    def cases(self, split: Split) -> list[StoredCase]:
        """Returns the cases of a split that have labels, by data set, then sorted by path."""
        self.load([split])
        return [case for cases in self._cases[split].values() for case in cases]

    def require(self, split: Split) -> None:
        """Raises ``UserError`` where a split has no case with labels."""
        if not self.cases(split):
            folders = ", ".join(map(str, self.folders.values()))
            raise UserError(f"{folders}: {WITHOUT[split]}.")

    def groups(self, split: Split) -> list[tuple[str, str]]:
        """Returns data set and modality of each of ``cases``."""
        self.load([split])
        return [
            (name, case.facts.modality or UNKNOWN_MODALITY)
            for name, cases in self._cases[split].items()
            for case in cases
        ]

    def index(self, split: Split) -> SliceIndex:
        """Returns the index over the slices of a split.

        It lies in the store of the first data set and refers to the other stores.

        Args:
            split: One that has cases.
        """
        self.load([split])
        roots = [locate_store(folder, self.store_dir) for folder in self.folders.values()]
        first = (roots[0] / "cases").resolve()
        cases = list(self._cases[split][next(iter(self.folders))])
        for root, name in list(zip(roots, self.folders, strict=True))[1:]:
            way = os.path.relpath((root / "cases").resolve(), first)
            cases += [replace(c, folder=f"{way}/{c.folder}") for c in self._cases[split][name]]
        return SliceIndex.create(roots[0].resolve(), cases, regions=self.regions)

    @property
    def label_names(self) -> dict[int, str]:
        """Names of the label ids of all loaded cases; the first case's where they differ."""
        names: dict[int, str] = {}
        for case in self._loaded():
            for label, name in case.facts.label_names:
                names.setdefault(label, name)
        return dict(sorted(names.items()))

    @property
    def intensity_rules(self) -> list[str]:
        """Distinct intensity rules of the loaded cases, as JSON."""
        return sorted({case.facts.intensity for case in self._loaded() if case.facts.intensity})

    @property
    def modalities(self) -> list[str]:
        """Distinct modalities of the loaded cases."""
        return sorted({case.facts.modality for case in self._loaded() if case.facts.modality})

    def _loaded(self) -> list[StoredCase]:
        by_set = [s for split in SPLITS for s in self._cases.get(split, {}).values()]
        return [case for cases in by_set for case in cases]


def _skipped_line(cases: Sequence[StoredCase]) -> str:
    named = [f"{case.path.name} ({case.facts.why_unusable})" for case in cases[:NAMED_CASES]]
    rest = f" and {len(cases) - NAMED_CASES} more" if len(cases) > NAMED_CASES else ""
    return f"Skipped for want of labels: {', '.join(named)}{rest}"
