"""What the repository promises around the code: licence, pins, make targets, wheel, directions."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from medsam2_ft import __version__

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ("LICENSE", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", "README.md")
# written in two pieces, so that this file does not find itself
REGISTRY_HOSTS = (
    "pypi" + ".org",
    "python" + "hosted",
    "download.py" + "torch",
    "anaconda" + ".org",
)
MACHINE_PATH = re.compile(r"(?<![\w.$}~-])/(?:work|root|home|Users|opt)/\w")


def tracked_files() -> list[Path]:
    """Every file under version control; skips where there is no git checkout."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


def copy_of_project(target: Path) -> Path:
    """The project's files without what tools and runs leave behind."""
    unwanted = shutil.ignore_patterns(
        ".git", ".venv", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".store"
    )
    shutil.copytree(ROOT, target, ignore=unwanted)
    return target


def make(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs make in the repository."""
    program = shutil.which("make")
    if program is None:
        pytest.skip("make is not installed")
    return subprocess.run(
        [program, "--no-print-directory", *args],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def paragraphs(licence: str) -> list[str]:
    """The terms of an Apache licence without layout and appendix."""
    terms = licence[licence.index("Apache License") : licence.index("END OF TERMS")]
    return [" ".join(part.split()) for part in terms.split("\n\n") if part.strip()]


class TestTexts:
    def test_licence_is_apache_2(self) -> None:
        files = importlib.metadata.files("lightning") or []
        reference = next(file for file in files if file.name == "LICENSE").read_text()
        assert paragraphs((ROOT / "LICENSE").read_text()) == paragraphs(reference)

    def test_citation(self) -> None:
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
        assert citation["version"] == __version__
        assert citation["license"] == "Apache-2.0"
        assert citation["authors"] == [{"name": "medsam2-ft maintainers"}]
        cited = [entry["identifiers"][0]["value"] for entry in citation["references"]]
        assert cited == ["arXiv:2408.03322", "arXiv:2408.00714"]

    def test_links_between_documents_exist(self) -> None:
        for name in [*TEXTS[2:], "docs/architecture.md", "checkpoints/README.md"]:
            path = ROOT / name
            links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
            missing = [link for link in links if not (path.parent / link).exists()]
            assert not missing, f"{name} links to {missing}"

    def test_contributing_is_short(self) -> None:
        assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 60

    def test_no_registry_host_and_no_machine_path(self) -> None:
        offenders = []
        for file in tracked_files():
            if file.name == "niivue.umd.js":
                continue  # a published library, unchanged: its own idea of a home folder
            text = file.read_bytes().decode(errors="ignore")
            found = [host for host in REGISTRY_HOSTS if host in text]
            found += MACHINE_PATH.findall(text)
            if found:
                offenders.append((str(file.relative_to(ROOT)), found))
        assert not offenders


class TestConstraints:
    @staticmethod
    def pins() -> dict[str, Requirement]:
        lines = (ROOT / "constraints.txt").read_text().splitlines()
        pins = [Requirement(line.split("#")[0]) for line in lines if not line.startswith("#")]
        return {canonicalize_name(pin.name): pin for pin in pins}

    def test_every_line_is_one_exact_version(self) -> None:
        for pin in self.pins().values():
            assert pin.url is None
            assert [item.operator for item in pin.specifier] == ["=="], str(pin)

    def test_every_requirement_is_pinned_within_its_range(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"].values()
        wanted = [
            Requirement(line) for lines in [project["dependencies"], *extras] for line in lines
        ]
        pins = self.pins()
        for requirement in wanted:
            if requirement.name == project["name"]:
                continue
            pin = pins.get(canonicalize_name(requirement.name))
            assert pin, f"{requirement.name} is not in constraints.txt: make lock"
            version = next(iter(pin.specifier)).version
            assert requirement.specifier.contains(version, prereleases=True), f"{pin}: make lock"

    def test_what_the_tests_run_with_is_what_is_pinned(self) -> None:
        pins = self.pins()
        assert {
            name: importlib.metadata.version(name) for name in ("torch", "sam2", "lightning")
        } == {
            name: next(iter(pins[name].specifier)).version
            for name in ("torch", "sam2", "lightning")
        }

    def test_cuda_packages_are_for_linux_only(self) -> None:
        for name, pin in self.pins().items():
            if name.startswith(("nvidia-", "cuda-", "triton")):
                assert pin.marker is not None
                assert not pin.marker.evaluate({"sys_platform": "darwin"})


class TestMake:
    def test_help_lists_every_documented_target(self) -> None:
        shown = make("help")
        assert shown.returncode == 0, shown.stderr
        listed = set(re.findall(r"^  make (\S+)", shown.stdout, re.MULTILINE))
        targets = {"install", "demo", "test", "test-all", "format", "check", "bench", "clean"}
        assert targets <= listed
        assert listed <= set(
            re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
        )

    def test_says_which_python_it_wants(self, tmp_path: Path) -> None:
        done = make("install", f"VENV={tmp_path / 'venv'}", PATH=str(tmp_path))
        assert done.returncode == 2
        assert "error: no Python 3.11 or 3.12 found" in done.stderr
        assert not (tmp_path / "venv").exists()

    def test_a_second_install_does_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "uv").touch()
        (tmp_path / ".medsam2-ft-installed").touch()
        done = make("--dry-run", "install", f"VENV={tmp_path}")
        assert "Nothing to be done" in done.stdout
        os.utime(tmp_path / ".medsam2-ft-installed", (0, 0))  # older than pyproject.toml
        assert "torch" in make("--dry-run", "install", f"VENV={tmp_path}").stdout

    def test_conda_environment_is_installed_into(self) -> None:
        name = yaml.safe_load((ROOT / "environment.yml").read_text())["name"]
        inside = make("-n", "install", CONDA_DEFAULT_ENV=name, CONDA_PREFIX="there").stdout
        outside = make("-n", "install", CONDA_DEFAULT_ENV="base", CONDA_PREFIX="there").stdout
        assert "there/bin/uv pip install" in inside.replace("\\\n\t", "")
        assert "there/" not in outside

    def test_environment_has_what_make_install_needs(self) -> None:
        dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
        assert dependencies == ["python=3.11", "pip", "uv"]

    def test_ci_runs_the_tests(self) -> None:
        script = ROOT / ".ci" / "run"
        subprocess.run(["bash", "-n", str(script)], check=True)
        assert "make test\n" in script.read_text()

    def test_hooks_are_tools_of_the_environment(self) -> None:
        hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
        commands = [hook["entry"].split()[0].removeprefix(".venv/") for hook in hooks]
        prefix = Path(sys.executable).parents[1]
        assert [command for command in commands if not (prefix / command).is_file()] == []


class TestImportDirections:
    @staticmethod
    def lint(folder: Path) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name("lint-imports")
        return subprocess.run(
            [str(program), "--no-cache"],
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(folder)},
        )

    def test_hold(self) -> None:
        done = self.lint(ROOT)
        assert done.returncode == 0, done.stdout

    @pytest.mark.parametrize(
        ("module", "line", "contract"),
        [
            ("metrics/__init__", "import sam2", "Only the adapter knows sam2"),
            ("propagate", "from hydra import compose", "Only the adapter knows sam2"),
            ("metrics/scores", "import SimpleITK", "Only io reads"),
            ("evaluate", "import lightning", "Lightning stays"),
            ("data/store", "from pytorch_lightning import Trainer", "Lightning stays"),
            ("losses", "from medsam2_ft import module", "Import directions"),
            ("io/atomic", "import medsam2_ft.data.store", "Import directions"),
        ],
    )
    def test_a_wrong_import_is_found(
        self, module: str, line: str, contract: str, tmp_path: Path
    ) -> None:
        project = tmp_path / "project"
        project.mkdir()
        shutil.copytree(ROOT / "medsam2_ft", project / "medsam2_ft")
        shutil.copy(ROOT / ".importlinter", project)
        file = project / "medsam2_ft" / f"{module}.py"
        file.write_text(f"{file.read_text()}\n\ndef later() -> None:\n    {line}\n")
        done = self.lint(project)
        assert done.returncode == 1
        assert re.search(rf"{contract}.*BROKEN", done.stdout), done.stdout

    def test_a_new_module_must_take_a_place(self, tmp_path: Path) -> None:
        project = tmp_path / "project"
        project.mkdir()
        shutil.copytree(ROOT / "medsam2_ft", project / "medsam2_ft")
        shutil.copy(ROOT / ".importlinter", project)
        (project / "medsam2_ft" / "utils.py").touch()
        done = self.lint(project)
        assert done.returncode == 1
        assert "utils" in done.stdout


@pytest.mark.slow
def test_wheel(tmp_path: Path) -> None:
    project = copy_of_project(tmp_path / "project")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--wheel-dir", str(tmp_path), str(project)],
        check=True,
    )  # fmt: skip
    wheel = zipfile.ZipFile(next(tmp_path.glob("medsam2_ft-*.whl")))
    names = wheel.namelist()
    configs = {path.name: path.read_bytes() for path in (ROOT / "configs").rglob("*.yaml")}
    packed = {Path(name).name: wheel.read(name) for name in names if "configs/" in name}
    assert packed == configs
    sources = [ROOT / "medsam2_ft", ROOT / "data_prep"]
    modules = {str(file.relative_to(ROOT)) for folder in sources for file in folder.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    info = f"medsam2_ft-{__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in names
    assert (
        "medsam2-ft = medsam2_ft.__main__:main" in wheel.read(f"{info}/entry_points.txt").decode()
    )
