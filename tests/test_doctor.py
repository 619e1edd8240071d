"""What the doctor sees, says, and exits with."""

import hashlib
import json
import os
import re
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medsam2_ft import __version__, installation, weights
from medsam2_ft.__main__ import main
from medsam2_ft.doctor import GIB, as_text, examine
from medsam2_ft.installation import extras, installed_version, missing_packages

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh current folder, home and environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC", weights.CHECKPOINTS_ENV):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Makes packages look as if they were not installed."""
    real = installation.importlib.metadata.version

    def version(name: str) -> str:
        if name in packages:
            raise installation.importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(installation.importlib.metadata, "version", version)


def problems() -> list[str]:
    return [finding.problem for finding in examine().findings]


def test_text_and_exit_code(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert f"medsam2-ft   {__version__}" in shown
    assert f"torch        {torch.__version__.split('+')[0]}" in shown
    assert str(own_folder / "checkpoints") in shown
    assert str(own_folder / "cache" / "medsam2-ft") in shown
    assert "no official weights are here -> medsam2-ft weights --download" in shown


def test_json_is_the_same_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["torch"] == installed_version("torch")
    assert set(report["weights"]) == set(weights.VARIANTS)
    assert report["devices"]["cpu"] == f"{torch.get_num_threads()} threads"
    assert report["findings"][0]["stops_training"] is False


def test_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the doctor opened a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)
    assert main(["doctor"]) == 0


class TestInstallation:
    def test_a_missing_package_stops_training(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        without(monkeypatch, "sam2")
        monkeypatch.setitem(sys.modules, "medsam2_ft.weights", None)  # must not be needed
        with pytest.raises(SystemExit) as stop:
            main(["doctor"])
        assert stop.value.code == 1
        shown = capsys.readouterr().out
        assert "sam2         missing" in shown
        assert "stops training: sam2<2,>=1.1 is not installed -> make install" in shown

    def test_a_version_out_of_range_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = installation.importlib.metadata.version
        monkeypatch.setattr(
            installation.importlib.metadata,
            "version",
            lambda name: "2.6.0" if name == "torch" else real(name),
        )
        assert missing_packages() == ["torch>=2.7"]

    def test_an_extra_counts_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without(monkeypatch, "slicerio", "numpy")
        assert missing_packages("demo") == ["slicerio>=1.4"]
        assert missing_packages() == ["numpy>=1.26"]

    def test_a_missing_extra_does_not_stop_training(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without(monkeypatch, "slicerio")
        report = examine()
        assert report.extras["demo"] == ["slicerio>=1.4"]
        assert re.search(r"demo +missing slicerio>=1\.4", as_text(report))
        assert not any(finding.stops_training for finding in report.findings)

    def test_everything_is_installed_here(self) -> None:
        assert {"demo", "dev"} <= set(extras())
        assert missing_packages() == []
        assert {extra: missing_packages(extra) for extra in ("demo", "dev")} == {
            "demo": [],
            "dev": [],
        }

    def test_without_packaging(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without(monkeypatch, "packaging")
        assert missing_packages() == ["packaging"]


class TestWeights:
    def test_verified_and_damaged(self, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = own_folder / "elsewhere"
        folder.mkdir()
        monkeypatch.setenv(weights.CHECKPOINTS_ENV, str(folder))
        content = b"weights"
        small = weights.VARIANTS["sam2_hiera_small"]
        tiny = weights.Variant(
            **{
                **vars(small),
                "name": "sam2.1_hiera_tiny",
                "checkpoint": "sam2.1_hiera_tiny.pt",
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
        monkeypatch.setattr(
            weights, "VARIANTS", {"sam2.1_hiera_tiny": tiny, "sam2_hiera_small": small}
        )
        (folder / tiny.checkpoint).write_bytes(content)
        (folder / small.checkpoint).write_bytes(content)
        report = examine()
        assert report.weights == {"sam2.1_hiera_tiny": "verified", "sam2_hiera_small": "damaged"}
        assert problems() == ["the weights of sam2_hiera_small are damaged"]
        (folder / small.checkpoint).unlink()
        assert problems() == []
        assert as_text(examine()).splitlines()[-1] == "nothing is missing"


class TestMachine:
    def test_devices_with_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        card = SimpleNamespace(name="Card 9000", total_memory=24 * GIB)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        devices = examine().devices
        assert devices["cuda:0"] == "Card 9000, 24.0 GiB, bf16"
        assert devices["mps"] == "Apple GPU"

    def test_little_disk_and_shared_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def usage(path: Any) -> Usage:
            small = GIB // 16
            return Usage(small, 0, small) if str(path) == "/dev/shm" else Usage(9 * GIB, 0, GIB)

        monkeypatch.setattr("shutil.disk_usage", usage)
        found = problems()
        assert any(problem.startswith("1.0 GiB free in") for problem in found)
        if Path("/dev/shm").is_dir():
            assert "/dev/shm has only 0.06 GiB" in found

    def test_a_folder_that_cannot_be_written(
        self, own_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # root may write anywhere, so the refusal is that of a read-only mount
        def refuse(*_: object, **__: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
        report = examine()
        assert report.findings[0].problem == f"{own_folder} cannot be written"
        with pytest.raises(SystemExit):
            main(["doctor"])

    def test_cores_are_those_that_may_be_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        assert examine().machine["cores"] == f"1 usable of {os.cpu_count()}"


class TestWandb:
    def test_nothing(self) -> None:
        assert examine().wandb["login"].startswith("none")

    def test_key_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "secret")
        monkeypatch.setenv("WANDB_MODE", "offline")
        assert examine().wandb == {"mode": "offline", "login": "key in WANDB_API_KEY"}
        assert "secret" not in as_text(examine())

    def test_login_of_the_configured_host(
        self, own_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = own_folder / ".netrc"
        file.write_text("machine wandb.example.org login user password secret\n")
        file.chmod(0o600)
        assert examine().wandb["login"].startswith("none")
        monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
        assert examine().wandb["login"] == f"key in {file}"
        assert "secret" not in as_text(examine())

    def test_unreadable_netrc(self, own_folder: Path) -> None:
        (own_folder / ".netrc").write_text("machine\n")
        assert examine().wandb["login"].startswith("none")
