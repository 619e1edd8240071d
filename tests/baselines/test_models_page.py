"""docs/models.md says what the tables of the code say."""

from pathlib import Path

from medsam2_ft.baselines import BASELINES
from medsam2_ft.weights import VARIANTS

PAGE = (Path(__file__).resolve().parents[2] / "docs/models.md").read_text()


def row(name: str, column: str) -> list[str]:
    """Cells of the row of a model in the table that has this column."""
    tables = PAGE.split("\n\n")
    (table,) = [t for t in tables if t.startswith("| name") and f"| {column} " in t]
    (line,) = [line for line in table.splitlines()[2:] if f"`{name}`" in line.split("|")[1]]
    return [cell.strip(" `") for cell in line.split("|")[1:-1]]


def test_every_model_has_a_row() -> None:
    for name in (*VARIANTS, *BASELINES):
        cells = row(name, "parameters")
        if name in BASELINES:
            assert cells[2] == BASELINES[name].checkpoint
            assert cells[4] == "box"


def test_sources_and_checksums_are_those_of_the_code() -> None:
    for name, baseline in BASELINES.items():
        _, source, sha256, _ = row(name, "sha256")
        assert source == baseline.url
        assert sha256 == baseline.sha256 or (baseline.sha256 is None and "not published" in sha256)
