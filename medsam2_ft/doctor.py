"""``medsam2-ft doctor``: what is installed, what the machine has, what is missing."""

import json as json_format
import netrc
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medsam2_ft import __version__
from medsam2_ft.installation import DISTRIBUTION, extras, installed_version, missing_packages

SHOWN_PACKAGES = ("torch", "torchvision", "lightning", "sam2", "monai", "numpy", "wandb")
GIB = 1 << 30
MIN_FREE_BYTES = 5 * GIB  # store, checkpoints and exports of a first run
MIN_SHARED_MEMORY_BYTES = GIB  # loader workers hand their batches over through /dev/shm


@dataclass(frozen=True)
class Finding:
    """Something that is missing.

    Attributes:
        problem: What it is.
        remedy: What to do about it.
        stops_training: Whether training fails without it.
    """

    problem: str
    remedy: str
    stops_training: bool


@dataclass(frozen=True)
class Report:
    """What the doctor found, as plain JSON values; empty where the installation is incomplete.

    Attributes:
        versions: Program, Python and packages; ``missing`` where one is not installed.
        machine: Cores, memory and disk.
        devices: What torch can compute on.
        folders: Where weights, the store and caches lie.
        weights: State of each official file: ``verified``, ``damaged`` or ``absent``.
        wandb: Mode and whether a login is there; nothing is asked from the network.
        extras: For each extra the packages that are missing, empty where it is complete.
        findings: What is missing, what stops training first.
    """

    versions: dict[str, str]
    machine: dict[str, str] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    wandb: dict[str, str] = field(default_factory=dict)
    extras: dict[str, list[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def doctor(*, json: bool = False) -> None:
    """Show versions, devices, folders and what is missing.

    Exits with 1 if something is missing that training needs, else with 0. Uses no network.

    Args:
        json: Print JSON instead of text.

    Raises:
        SystemExit: With code 1, see above.
    """
    report = examine()
    print(json_format.dumps(asdict(report), indent=2) if json else as_text(report))
    if any(finding.stops_training for finding in report.findings):
        raise SystemExit(1)


def examine() -> Report:
    """Looks at the installation and the machine.

    An incomplete installation is only told what it lacks: the other questions need the packages.
    """
    missing = missing_packages()
    findings = [Finding(f"{name} is not installed", "make install", True) for name in missing]
    if missing:
        return Report(versions=_versions(), findings=findings)
    weights = _weights()
    findings += _folder_findings() + _weight_findings(weights) + _memory_findings()
    return Report(
        versions=_versions(),
        machine=_machine(),
        devices=_devices(),
        folders=_folders(),
        weights=weights,
        wandb=_wandb(),
        extras={extra: missing_packages(extra) for extra in extras()},
        findings=sorted(findings, key=lambda finding: not finding.stops_training),
    )


def as_text(report: Report) -> str:
    """Returns the report for reading in a terminal."""
    packages = {
        extra: f"missing {', '.join(missing)}" if missing else "installed"
        for extra, missing in report.extras.items()
    }
    sections: dict[str, dict[str, str]] = {
        "versions": report.versions,
        "machine": report.machine,
        "devices": report.devices,
        "folders": report.folders,
        "weights": report.weights,
        "Weights & Biases": report.wandb,
        "extras": packages,
    }
    lines = [line for title, rows in sections.items() for line in _section(title, rows)]
    lines.append("findings" if report.findings else "nothing is missing")
    for finding in report.findings:
        mark = "stops training" if finding.stops_training else "note"
        lines.append(f"  {mark}: {finding.problem} -> {finding.remedy}")
    return "\n".join(lines)


def _section(title: str, rows: dict[str, str]) -> Iterator[str]:
    """Yields a heading and aligned rows; nothing where there are no rows."""
    if rows:
        width = max(map(len, rows))
        yield title
        yield from (f"  {name:<{width}}  {value}" for name, value in rows.items())


def _versions() -> dict[str, str]:
    """Returns the versions of the program, of Python and of the packages that matter most."""
    python = f"{platform.python_version()} on {platform.platform()}"
    packages = {name: installed_version(name) or "missing" for name in SHOWN_PACKAGES}
    return {DISTRIBUTION: __version__, "python": python} | packages


def _machine() -> dict[str, str]:
    """Returns cores, memory and free disk space."""
    import psutil

    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(Path.cwd())
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    usable = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    return {
        "cores": f"{usable} usable of {os.cpu_count()}",
        "memory": f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f}",
        "disk": f"{disk.free / GIB:.1f} GiB free of {disk.total / GIB:.1f} in {Path.cwd()}",
    }


def _devices() -> dict[str, str]:
    """Returns what torch can compute on."""
    import torch

    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        properties: Any = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        memory = f"{properties.total_memory / GIB:.1f} GiB"
        devices[f"cuda:{index}"] = f"{properties.name}, {memory}, {bf16}"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return devices


def _folders() -> dict[str, str]:
    """Returns where things lie or would lie."""
    from platformdirs import user_cache_path

    from medsam2_ft.weights import checkpoint_folder

    return {
        "weights": str(checkpoint_folder().resolve()),
        "store": "<data_dir>/.store, or --data.store_dir",
        "store of read-only data": str(user_cache_path(DISTRIBUTION) / "store"),
        "runs": str(Path("runs").resolve()),
    }


def _weights() -> dict[str, str]:
    """Returns the state of each official file."""
    from medsam2_ft.commands.weights import weight_state
    from medsam2_ft.weights import VARIANTS, checkpoint_folder

    folder = checkpoint_folder()
    return {name: weight_state(variant, folder) for name, variant in VARIANTS.items()}


def _wandb() -> dict[str, str]:
    """Returns the mode and whether credentials are there, without importing wandb."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    login = "key in WANDB_API_KEY" if os.environ.get("WANDB_API_KEY") else _netrc_login(host)
    return {
        "mode": os.environ.get("WANDB_MODE", "as --wandb.mode says (default off)"),
        "login": login or "none: wandb login, or --wandb.mode offline",
    }


def _netrc_login(host: str) -> str | None:
    """Returns which file holds a login for ``host``, None where there is none."""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return f"key in {path}" if netrc.netrc(path).authenticators(host) else None
    except (OSError, netrc.NetrcParseError):
        return None


def _folder_findings() -> list[Finding]:
    """Reports a folder that cannot be written and a disk that is nearly full."""
    here = Path.cwd()
    if not _is_writable(here):
        remedy = "go to a folder of your own, or give --run a folder that can be written"
        return [Finding(f"{here} cannot be written", remedy, stops_training=True)]
    free = shutil.disk_usage(here).free
    if free >= MIN_FREE_BYTES:
        return []
    remedy = "free some space: the slice store and every checkpoint need it"
    return [Finding(f"{free / GIB:.1f} GiB free in {here}", remedy, stops_training=False)]


def _is_writable(folder: Path) -> bool:
    """Tries to create a file; permission bits say nothing about read-only mounts or root."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _weight_findings(weights: dict[str, str]) -> list[Finding]:
    """Reports damaged files, or that there are none at all."""
    findings = [
        Finding(
            f"the weights of {name} are damaged",
            f"delete the file, then medsam2-ft weights --download {name}",
            stops_training=False,
        )
        for name, state in weights.items()
        if state == "damaged"
    ]
    if findings or "verified" in weights.values():
        return findings
    remedy = "medsam2-ft weights --download sam2.1_hiera_tiny, or see checkpoints/README.md"
    return [Finding("no official weights are here", remedy, stops_training=False)]


def _memory_findings() -> list[Finding]:
    """Reports a shared memory too small for loader workers, as containers have by default."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shutil.disk_usage(shared).total >= MIN_SHARED_MEMORY_BYTES:
        return []
    size = f"{shutil.disk_usage(shared).total / GIB:.2f} GiB"
    remedy = "--data.num_workers 0, or start the container with --shm-size 4g"
    return [Finding(f"{shared} has only {size}", remedy, stops_training=False)]
