"""One row per target of speed, from the JSON files of the single benchmarks.

    python benchmarks/summary.py [--results benchmarks/results]

Writes ``summary.json`` beside them: a list of ``{name, ratio, target, better, unit, command}``.
What no file states (no GPU, a benchmark that did not run) has the ratio null.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from medsam2_ft.io import atomic

Result = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One row.

    Attributes:
        name: What is measured.
        target: What the ratio is held against.
        better: Whether the ratio should be above or below it.
        unit: Of the ratio: ``times`` the baseline, or what it says.
        script: The benchmark; its JSON has the same name.
        read: Takes the ratio out of that JSON; None where it is not there.
    """

    name: str
    target: float
    better: Literal["higher", "lower"]
    unit: str
    script: str
    read: Callable[[Result], float | None]

    def row(self, results: Path) -> dict[str, Any]:
        """Reads the ratio, null where it was not measured."""
        file = results / f"{self.script}.json"
        found: Result = json.loads(file.read_text()) if file.is_file() else {}
        usual = f"python benchmarks/{self.script}.py --json benchmarks/results/{self.script}.json"
        return {
            "name": self.name,
            "ratio": self.read(found),
            "target": self.target,
            "better": self.better,
            "unit": self.unit,
            "command": found.get("command", usual),
        }


def listed(key: str, value: str, **where: Any) -> Callable[[Result], float | None]:
    """The value of the first entry of a list that has the given fields."""

    def read(result: Result) -> float | None:
        for entry in result.get(key, []):
            if all(entry.get(name) == wanted for name, wanted in where.items()):
                return entry.get(value)  # type: ignore[no-any-return]
        return None

    return read


def nested(*keys: str) -> Callable[[Result], float | None]:
    """The value below these keys."""

    def read(result: Result) -> float | None:
        value: Any = result
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value  # type: ignore[no-any-return]

    return read


def worker_memory(result: Result) -> float | None:
    """A worker's own memory with most cases against fewest."""
    for entry in result.get("rows", []):
        if entry["name"].startswith("worker memory, resident"):
            return entry["ratio"]  # type: ignore[no-any-return]
    return None


TARGETS: Final = (
    Target(
        "objects trained per second, 12 labels per slice, 1024, CPU",
        6.0,
        "higher",
        "times",
        "training",
        listed("rows", "object_ratio_cpu", size=1024, objects_per_slice=12),
    ),
    Target(
        "images trained per second, one object, 1024, CPU",
        1.10,
        "higher",
        "times",
        "training",
        listed("rows", "image_ratio_cpu", size=1024, objects_per_slice=1),
    ),
    Target(
        "samples per second and worker, no augmentation, 1024",
        8.0,
        "higher",
        "times",
        "data_path",
        listed("rows", "ratio", name="store at 1024"),
    ),
    Target(
        "samples per second and worker, augmented, against none, 1024",
        1.0,
        "higher",
        "times",
        "data_path",
        listed("rows", "ratio", name="store_augmented at 1024"),
    ),
    Target("disk", 0.25, "lower", "times", "data_path", listed("rows", "ratio", name="disk")),
    Target(
        "start-up to the first batch, 50 volumes",
        5.0,
        "lower",
        "s",
        "data_path",
        listed("rows", "ours", name="first batch of 50 volumes"),
    ),
    Target(
        "memory of a worker, most cases against fewest",
        1.05,
        "lower",
        "times",
        "data_path",
        worker_memory,
    ),
    Target(
        "inference, 12 labels per slice, 1024",
        8.0,
        "higher",
        "times",
        "inference",
        nested("sizes", "1024", "ratio_cpu"),
    ),
    Target("metrics, 12 organs", 10.0, "higher", "times", "metrics", nested("close", "cpu_ratio")),
    Target(
        "loss curves, distance of running means",
        0.01,
        "lower",
        "share",
        "loss_curves",
        nested("smoothed_apart_max_relative"),
    ),
    Target(
        "images trained per second, batch 16, 1024, GPU",
        5.0,
        "higher",
        "times",
        "gpu",
        nested("image_ratio"),
    ),
    Target("peak memory of the same, GPU", 0.4, "lower", "times", "gpu", nested("memory_ratio")),
    Target("device busy with 8 workers", 0.95, "higher", "share", "gpu", nested("device_busy")),
)


def met(row: dict[str, Any]) -> str:
    """Says how a row stands."""
    if row["ratio"] is None:
        return "not measured"
    above = row["ratio"] >= row["target"]
    reached = above if row["better"] == "higher" else row["ratio"] <= row["target"]
    return "met" if reached else "MISSED"


def main() -> None:
    """Reads, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    rows = [target.row(args.results) for target in TARGETS]
    print(f"{'':66}{'ratio':>10}{'target':>10}")
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        bound = (">= " if row["better"] == "higher" else "<= ") + f"{row['target']:g}"
        print(f"{row['name'] + ' (' + row['unit'] + ')':66}{ratio:>10}{bound:>10}  {met(row)}")
    atomic.write_json(args.results / "summary.json", rows)


if __name__ == "__main__":
    main()
