"""The cases of a data folder by split, in the store, with what they say about themselves."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from medsam2_ft.data.index import SliceIndex
from medsam2_ft.data.splits import SPLITS, Split, find_splits
from medsam2_ft.data.store import StoredCase, locate_store, update_store
from medsam2_ft.errors import UserError

# Cases that a message names before it counts the rest.
NAMED_CASES = 10


class CaseLibrary:
    """Loads splits when they are first asked for; cases without labels are left out.

    Args:
        data_dir: Folder of npz cases, see ``splits.find_splits``.
        val_share: Share of cases drawn for validation where the folder does not say.
        test_share: Share of cases drawn for testing where the folder does not say.
        seed: Seed of that draw.
        store_dir: Where the slice store goes, None for the default.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        val_share: float,
        test_share: float,
        seed: int,
        store_dir: Path | None,
    ) -> None:
        self.data_dir = data_dir
        self.val_share = val_share
        self.test_share = test_share
        self.seed = seed
        self.store_dir = store_dir
        self._cases: dict[Split, list[StoredCase]] = {}

    def load(self, splits: Iterable[Split], *, quiet: bool = True) -> None:
        """Brings the store up to date for some splits and opens them, unless they are open.

        Args:
            splits: The splits that are wanted.
            quiet: No progress bar, and no line about cases that are left out.

        Raises:
            UserError: If the folder, a case or the store is unusable, or no case has labels.
        """
        missing = [split for split in splits if split not in self._cases]
        if not missing:
            return
        found = find_splits(
            self.data_dir, val_share=self.val_share, test_share=self.test_share, seed=self.seed
        )
        stored = update_store(
            locate_store(self.data_dir, self.store_dir),
            [path for split in missing for path in found[split]],
            keep=[path for split in SPLITS for path in found[split]],
            quiet=quiet,
        )
        unusable = [case for case in stored if case.facts.why_unusable]
        if stored and len(unusable) == len(stored):
            raise UserError(
                f"{self.data_dir}: none of the {len(stored)} cases has labels (the first one, "
                f"{stored[0].path.name}: {stored[0].facts.why_unusable}); add label maps."
            )
        if unusable and not quiet:
            print(_skipped_line(unusable))
        usable = {case.path: case for case in stored if not case.facts.why_unusable}
        for split in missing:
            self._cases[split] = [usable[path] for path in found[split] if path in usable]

    def paths_to_predict(self) -> list[Path]:
        """Returns the test cases or, where there are none, all cases; with labels or without."""
        found = find_splits(
            self.data_dir, val_share=self.val_share, test_share=self.test_share, seed=self.seed
        )
        return found["test"] or sorted(path for paths in found.values() for path in paths)

    def forget(self) -> None:
        """Makes the next ``load`` look at the files again."""
        self._cases = {}

    def cases(self, split: Split) -> list[StoredCase]:
        """Returns the cases of a split that have labels, sorted by path."""
        self.load([split])
        return self._cases[split]

    def index(self, split: Split) -> SliceIndex:
        """Returns the index over the slices of a split.

        Args:
            split: One that has cases.
        """
        root = locate_store(self.data_dir, self.store_dir)
        return SliceIndex.create(root, self.cases(split))

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
        return [case for split in SPLITS for case in self._cases.get(split, [])]


def _skipped_line(cases: Sequence[StoredCase]) -> str:
    named = [f"{case.path.name} ({case.facts.why_unusable})" for case in cases[:NAMED_CASES]]
    rest = f" and {len(cases) - NAMED_CASES} more" if len(cases) > NAMED_CASES else ""
    return f"Skipped for want of labels: {', '.join(named)}{rest}"
