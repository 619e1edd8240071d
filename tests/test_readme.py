"""The README is true: its commands run as printed, on small data and with a small model.

A training command is run with ``TINY`` behind its own configs: a smaller model, fewer steps. What
is not run stands in ``NOT_RUN`` with the reason.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import nibabel
import numpy as np
import pytest
import synthetic
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent

NOT_RUN = {
    "make demo": "takes minutes; tests/e2e runs the same function",
    "make test": "would start this test again",
    "source .venv/bin/activate": "changes the reader's shell",
    "medsam2-ft weights --download sam2.1_hiera_tiny": "needs the network",
}
TINY = {
    "trainer": {
        "max_epochs": 1,
        "limit_train_batches": 2,
        "accelerator": "cpu",
        "precision": "32-true",
        "strategy": "auto",
        "devices": 1,
        "num_nodes": 1,
        "accumulate_grad_batches": 1,
    },
    "data": {"image_size": 64, "num_workers": 0, "batch_size": 2},
    "model": {"variant": "tiny_test", "weights": "random"},
}


def blocks(language: str) -> list[str]:
    """The README's fenced blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command of the README in order, without comments and with single spaces."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def runnable(command: str) -> list[str]:
    """The words to start: this environment's programs, and a small run for a training command."""
    words = shlex.split(command)
    if words[0] == "srun":  # starts the rest once per task
        words = words[1:]
    words[0] = str(sys.executable if words[0] == "python" else BIN / words[0])
    if words[1] == "train.py":
        words += ["--config", "tiny.yaml"]
    if "configs/cluster.yaml" in words:
        words += ["--wandb.mode", "offline"]
    return words


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as the reader has it, with folders of images and labels beside it."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("configs", "train.py"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("images", "labels", "checkpoints"):
        (folder / name).mkdir()
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    for number in range(5):
        imgs, gts = synthetic.make_volume((6, 48, 56), seed=number)
        affine = np.diag([0.8, 0.8, 2.5, 1.0])
        hounsfield = imgs.T.astype(np.int16) - 100
        name = f"case_{number}.nii.gz"
        nibabel.Nifti1Image(hounsfield, affine).to_filename(folder / "images" / name)
        nibabel.Nifti1Image(gts.T.astype(np.int16), affine).to_filename(folder / "labels" / name)
    for name, modality, colour in (("ct", "CT", False), ("polyps", "endoscopy", True)):
        for number in range(2):
            path = folder / "DATA" / name / f"{name}_{number}.npz"
            synthetic.write_npz(path, modality=modality, colour=colour, seed=number)
    polyps = folder / "Kvasir-SEG"
    for number, part in enumerate(("images", "masks")):
        (polyps / part).mkdir(parents=True)
        for seed, case in enumerate(("a", "b")):
            imgs, gts = synthetic.make_volume((1, 48, 56), labels=(1,), colour=True, seed=seed)
            pixels = np.repeat(gts[0, ..., None] * 255, 3, axis=2) if number else imgs[0]
            Image.fromarray(pixels.astype(np.uint8)).save(polyps / part / f"{case}.jpg")
    return folder


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in ``folder``, without its own network and with one thread."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder),
        "WANDB_SILENT": "true",
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }
    return subprocess.run(
        words, cwd=folder, check=False, capture_output=True, text=True, env=environment
    )


def serve(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Starts a server on a free port, asks it for its health, and interrupts it."""
    process = subprocess.Popen(
        [*words, "--port", "0"], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            (url,) = re.findall(r"http://\S+", line)
            with urllib.request.urlopen(f"{url}/health") as answer:
                assert answer.status == 200
        finally:
            process.send_signal(signal.SIGINT)
        said = line + process.stdout.read()
    assert process.returncode == 130
    assert "Research use only" in said
    return subprocess.CompletedProcess(words, 0, said, "")


def test_every_command_is_known() -> None:
    printed = commands()
    assert set(NOT_RUN) <= set(printed), "NOT_RUN names commands that the README no longer has"
    starts = {shlex.split(command)[0] for command in printed if command not in NOT_RUN}
    assert starts == {"medsam2-ft", "python", "srun"}
    for topic in (
        "prepare",
        "inspect",
        "preview",
        "data_prep",
        "fit",
        "validate",
        "export",
        "doctor",
        "--ckpt_path last",
        "offline",
    ):
        assert any(topic in command for command in printed), topic


def test_every_file_that_it_names_is_there() -> None:
    named = set(re.findall(r"\b(?:configs|medsam2_ft|docs)/[\w./]+\.\w+", README))
    named -= {"configs/sam2.1/sam2.1_hiera_t.yaml"}  # Meta's, inside the sam2 package
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_says_what_it_is_not() -> None:
    assert "Research use only. Not a medical device." in README


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_commands_run_as_printed(workspace: Path) -> None:
    for command in commands():
        if command not in NOT_RUN:
            words = runnable(command)
            done = serve(words, workspace) if words[1] == "serve" else run(words, workspace)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert list((workspace / "cases").rglob("case_*.npz"))
    assert list((workspace / "polyps").rglob("*.npz"))
    files = "runs/first/exports/best.pt", "runs/first/metrics.csv", "last.pt", "last.json"
    for path in (*files, "organ.nii.gz", "organ.png", "runs/report/summary.md"):
        assert (workspace / path).is_file(), path
    assert list((workspace / "runs" / "tracked").rglob("*.wandb"))


@pytest.mark.slow
def test_code_loads_an_export_in_metas_package(tmp_path: Path) -> None:
    from medsam2_ft.export import ExportInfo, write_export
    from medsam2_ft.sam2_adapter import build_model

    variant = "sam2.1_hiera_tiny"
    model = build_model(variant, image_size=512, weights="random")
    info = ExportInfo(variant=variant, image_size=512)
    write_export(model.core.state_dict(), tmp_path / "last.pt", info)
    (code,) = blocks("python")
    script = (
        f"{code}\nimport numpy as np\n"
        "predictor.set_image(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))\n"
        "masks, _, _ = predictor.predict(box=np.array([5, 5, 60, 40]), multimask_output=False)\n"
        "assert masks.shape == (1, 60, 80), masks.shape\n"
    )
    (tmp_path / "load.py").write_text(script)
    done = run([sys.executable, "load.py"], tmp_path)
    assert done.returncode == 0, done.stderr
