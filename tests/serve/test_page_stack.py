"""The page with a tiny real SAM2: the calls for scripts, and a session from box to file."""

import json
import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest
from gradio_client import handle_file
from live import running
from pages import User, nifti, video
from test_serve_stack import export

from medsam2_ft.io import read_volume
from medsam2_ft.object_prompts import ObjectPrompt
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.serve.engine import ModelEngine
from medsam2_ft.serve.registry import Registry
from medsam2_ft.serve.settings import Settings
from medsam2_ft.types import IntensityRule

ROOT = Path(__file__).resolve().parents[2]
BOX = [6, 5, 33, 27]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def port(runs: Path) -> Iterator[int]:
    engine = ModelEngine(Registry(watch=[str(runs / "*" / "exports")]), device="cpu")
    with running(engine, Settings(work_dir=runs / "work"), page=True) as number:
        yield number


@pytest.fixture(scope="module")
def model(runs: Path, port: int) -> Path:
    return export(runs, "first", 3)


@pytest.fixture
def user(port: int, tmp_path: Path, model: Path) -> User:
    return User(port, tmp_path / "downloads")


def prompts(index: int = 6, **more: Any) -> dict[str, Any]:
    objects = [{"object_id": 1, "slices": [{"index": index, "box": BOX}], **more}]
    return {"objects": objects}


def expected(
    model: Path, path: Path, index: int, z_range: tuple[int, int], **how: Any
) -> np.ndarray:
    segmenter = Segmenter.from_checkpoint(model, device="cpu")
    prompt = ObjectPrompt.from_box(1, index, np.array(BOX, np.float32), z_range)
    labels = segmenter.segment(read_volume(path), [prompt], **how).maps[0]
    assert 0 < labels.mean() < 1
    return labels


def test_without_a_model_the_page_says_what_to_do(tmp_path: Path) -> None:
    """Comes first: this server has a folder of its own, and one page runs at a time."""
    watched = Registry(watch=[str(tmp_path / "mine" / "exports")])
    settings = Settings(work_dir=tmp_path / "work")
    with running(ModelEngine(watched, device="cpu"), settings, page=True) as port:
        user = User(port, tmp_path / "downloads")
        with pytest.raises(Exception, match="medsam2-ft weights"):
            user.open("volume", nifti(tmp_path / "ct.nii.gz"))
        assert "checkpoints/" in user("models")
        export(tmp_path, "mine", 3)
        assert "mine/best (default)" in user("models")  # without a restart


def test_segment_image_equals_the_segmenter(user: User, tmp_path: Path, model: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (32, 40, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    path = user("segment_image", handle_file(str(tmp_path / "a.png")), prompts(0))
    assert Path(path).name == "mask.png"
    found = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found, expected(model, tmp_path / "a.png", 0, (0, 0))[0])


def test_segment_volume_equals_the_segmenter(user: User, tmp_path: Path, model: Path) -> None:
    source = nifti(tmp_path / "ct.nii.gz")
    asked = prompts(range=[4, 9]) | {"window": [-160, 240]}
    path = user("segment_volume", handle_file(str(source)), asked)
    rule = IntensityRule("window", -160.0, 240.0)
    labels = expected(model, source, 6, (4, 9), intensity=rule)
    assert np.array_equal(np.asarray(nibabel.load(path).dataobj).T, labels)
    np.testing.assert_allclose(nibabel.load(path).affine, nibabel.load(source).affine, atol=1e-4)


def test_track_video_equals_the_segmenter(user: User, tmp_path: Path, model: Path) -> None:
    video(tmp_path / "a.mp4")
    film, masks = user("track_video", handle_file(str(tmp_path / "a.mp4")), prompts(4))
    labels = expected(model, tmp_path / "a.mp4", 4, (0, 11))
    with zipfile.ZipFile(masks) as archive:
        planes = [
            cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_UNCHANGED)
            for name in sorted(archive.namelist())
        ]
    assert np.array_equal(np.stack(planes), labels)
    assert read_volume(Path(film)).array.shape[0] == 12


def test_a_session_equals_the_stateless_call(user: User, tmp_path: Path, model: Path) -> None:
    source = nifti(tmp_path / "ct.nii.gz")
    user.open("volume", source, "CT", "soft_tissue", None, None)
    user("volume_box", 1, 0, 6, *BOX)
    user("volume_propagate", 1, 0, 6, 4, 9, "both", "auto")
    found = np.asarray(nibabel.load(user.save("volume", "nii.gz")).dataobj).T
    rule = IntensityRule("window", -160.0, 240.0)
    assert np.array_equal(found, expected(model, source, 6, (4, 9), intensity=rule))


def documented(language: str) -> list[str]:
    text = (ROOT / "docs" / "serve.md").read_text("utf-8")
    part = text[text.index("## The page") : text.index("## List of models")]
    return re.findall(rf"```{language}\n(.*?)```", part, re.DOTALL)


def test_the_documented_python_runs(port: int, tmp_path: Path, model: Path) -> None:
    (code,) = documented("python")
    nifti(tmp_path / "ct.nii.gz")
    video(tmp_path / "clip.mp4")
    cv2.imwrite(str(tmp_path / "picture.png"), np.full((64, 64), 90, np.uint8))
    code = code.replace("http://127.0.0.1:7860", f"http://127.0.0.1:{port}")
    for name in ("ct.nii.gz", "clip.mp4", "picture.png"):
        code = code.replace(f'"{name}"', repr(str(tmp_path / name)))
    names: dict[str, Any] = {}
    exec(compile(code, "docs/serve.md", "exec"), names)  # noqa: S102
    assert Path(names["mask"]).name == "mask.nii.gz"
    assert Path(names["film"]).name == "overlay.mp4"
    assert Path(names["picture"]).name == "mask.png"


def test_the_documented_curl_runs(port: int, tmp_path: Path, model: Path) -> None:
    (code,) = documented("bash")
    nifti(tmp_path / "ct.nii.gz")
    code = code.replace("http://127.0.0.1:7860", f"http://127.0.0.1:{port}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    assert mask.shape == nibabel.load(tmp_path / "ct.nii.gz").shape
    assert json.dumps(np.unique(np.asarray(mask.dataobj)).tolist()) in ("[0, 1]", "[1]", "[0]")
