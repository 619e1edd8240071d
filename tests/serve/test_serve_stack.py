"""A tiny real SAM2 and real volumes through the whole stack: HTTP in, files out."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from live import Client, running

from medsam2_ft.export import ExportInfo, write_export
from medsam2_ft.io import read_labels, read_volume, write_volume
from medsam2_ft.models import load_model
from medsam2_ft.object_prompts import ObjectPrompt, SlicePrompt
from medsam2_ft.sam2_adapter import build_model
from medsam2_ft.segmenter import Segmenter
from medsam2_ft.serve import wire
from medsam2_ft.serve.engine import FakeEngine, ModelEngine
from medsam2_ft.serve.registry import Registry
from medsam2_ft.serve.settings import Settings
from medsam2_ft.tracker import Tracker
from medsam2_ft.types import Geometry, IntensityRule, Volume

IMAGE = np.random.default_rng(1).integers(0, 256, (6, 40, 36), dtype=np.uint8)
BOX = [4, 6, 25, 30]


def export(folder: Path, name: str, seed: int) -> Path:
    torch.manual_seed(seed)
    model = build_model("tiny_test", image_size=64, weights="random")
    with torch.no_grad():
        model.core.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    path = folder / name / "exports" / "best.pt"
    info = ExportInfo("tiny_test", 64, "box", (IntensityRule("keep").to_json(),))
    write_export(model.core.state_dict(), path, info)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def port(runs: Path) -> Iterator[int]:
    export(runs, "first", 3)
    engine = ModelEngine(Registry(watch=[str(runs / "*" / "exports")]), device="cpu")
    with running(engine, Settings(work_dir=runs / "work")) as number:
        yield number


def test_masks_equal_those_of_the_tracker(port: int, runs: Path) -> None:
    user = Client(port)
    user.upload(IMAGE, model="first/best", strategy="memory")
    said = user.prompt(index=2, box=BOX)
    job = user.call("POST", f"{user.session}/propagate", {}).json
    held = {1: np.zeros(IMAGE.shape, bool)}
    held[1][2] = wire.mask_from_json(said["mask"])
    assert user.follow(job["job_id"], held)["state"] == "done"
    source = str(runs / "first" / "exports" / "best.pt")
    model: Any = load_model(source, device=torch.device("cpu")).model
    tracker = Tracker(model, IMAGE, strategy="memory")
    tracker.prompt(1, SlicePrompt(2, np.array(BOX, np.float32)))
    expected = np.zeros(IMAGE.shape, bool)
    for reverse in (False, True):
        for found in tracker.propagate(start=2, reverse=reverse):
            expected[found.frame] = (found.logits[0] > 0).numpy()
    assert 0 < expected.mean() < 1
    assert np.array_equal(held[1], expected)
    payload = user.call("GET", f"{user.session}/masks?format=nii.gz").body
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(payload))
    assert np.array_equal(np.asarray(image.dataobj).T == 1, expected)


def multipart(name: str, content: bytes, prompts: Any) -> tuple[bytes, str]:
    mark = "boundary-of-parts"
    lines = [
        f'--{mark}\r\nContent-Disposition: form-data; name="prompts"\r\n\r\n{json.dumps(prompts)}',
        (
            f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ),
    ]
    body = "\r\n".join(lines).encode() + content + f"\r\n--{mark}--\r\n".encode()
    return body, f"multipart/form-data; boundary={mark}"


def test_one_call_equals_the_segmenter(port: int, runs: Path, tmp_path: Path) -> None:
    geometry = Geometry((5.0, 0.7, 0.8), (-10.0, 20.0, 30.0))
    write_volume(tmp_path / "image.nii.gz", Volume(IMAGE, geometry))
    asked = {"objects": [{"object_id": 3, "slices": [{"index": 2, "box": BOX}], "range": [1, 4]}]}
    body, kind = multipart("image.nii.gz", (tmp_path / "image.nii.gz").read_bytes(), asked)
    user = Client(port)
    answer = user.call("POST", "/segment/volume", body, Content_Type=kind)
    if answer.status == 202:
        user.headers["X-Lease"] = answer.json["lease"]
        user.finish(answer)
        answer = user.call("GET", f"/jobs/{answer.json['job_id']}/file")
    assert answer.status == 200, answer.body
    (tmp_path / "mask.nii.gz").write_bytes(answer.body)
    found = read_labels(tmp_path / "mask.nii.gz")
    segmenter = Segmenter.from_checkpoint(runs / "first" / "exports" / "best.pt", device="cpu")
    volume = read_volume(tmp_path / "image.nii.gz")
    prompt = ObjectPrompt.from_box(3, 2, np.array(BOX, np.float32), (1, 4))
    expected = segmenter.segment(volume, [prompt])
    assert (expected.maps[0] == 3).any()
    assert np.array_equal(found.maps[0], expected.maps[0])
    one = nibabel.load(tmp_path / "image.nii.gz").affine
    np.testing.assert_allclose(nibabel.load(tmp_path / "mask.nii.gz").affine, one, atol=1e-4)


def test_an_export_appears_without_a_restart(port: int, runs: Path) -> None:
    user = Client(port)
    listed = [model["id"] for model in user.call("GET", "/capabilities").json["models"]]
    assert listed == ["first/best"]
    assert user.open(model="second/best").status == 404
    export(runs, "second", 4)
    listed = [model["id"] for model in user.call("GET", "/capabilities").json["models"]]
    assert listed == ["first/best", "second/best"]
    assert user.upload(IMAGE, model="second/best")["model"] == "second/best"
    user.call("DELETE", user.session)


VOLUMES = [
    "CT/ivadomed_spleen/sub-spleen2_ct.nii.gz",
    "MR/sct_spinalcord/t2.nii.gz",
    "PET/ibsi_sts_nifti/STS_008/PET_image.nii.gz",
    "MR/brats2015_deepmedic/brats_2013_pat0006_1/Flair_subtrMeanDivStd.nii.gz",
    "ultrasound/deepreg_trus3d/images/case000025.nii.gz",
]


def oblique(folder: Path) -> Path:
    angle = 0.4
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn[:, [2, 0, 1]] * [0.9, 1.1, 10.0]
    affine[:3, 3] = [5, -7, 11]
    values = np.random.default_rng(5).integers(0, 1000, (20, 24, 8)).astype(np.int16)
    path = folder / "oblique.nii.gz"
    nibabel.Nifti1Image(values, affine).to_filename(path)
    return path


@pytest.mark.parametrize("name", [*VOLUMES, "oblique"])
def test_the_mask_overlays_the_source_in_the_world(
    name: str, tmp_path: Path, test_data: Path
) -> None:
    """The drawn mask is bright voxels; in the world, the mask's voxels are bright in the source."""
    path = oblique(tmp_path) if name == "oblique" else test_data / name
    volume = read_volume(path)
    axis, index = 1, volume.array.shape[1] // 2
    plane = volume.array[:, index]
    limit = float(np.quantile(plane, 0.8))
    drawn = plane > limit
    assert drawn.any()
    with running(FakeEngine(), Settings(work_dir=tmp_path / "work")) as port:
        user = Client(port)
        user.open(modality="CT")
        user.finish(
            user.call("PUT", f"{user.session}/file", path.read_bytes(), X_Filename="a.nii.gz")
        )
        user.prompt(axis=axis, index=index, mask=wire.mask_to_json(drawn))
        answer = user.call("GET", f"{user.session}/masks")
        if answer.status == 202:
            user.finish(answer)
            answer = user.call("GET", f"/jobs/{answer.json['job_id']}/file")
    (tmp_path / "mask.nii.gz").write_bytes(answer.body)
    mask, source = nibabel.load(tmp_path / "mask.nii.gz"), nibabel.load(path)
    voxels = np.argwhere(np.asarray(mask.dataobj) == 1)
    assert len(voxels) == drawn.sum()
    world = nibabel.affines.apply_affine(mask.affine, voxels)
    places = nibabel.affines.apply_affine(np.linalg.inv(source.affine), world)
    nearest = np.rint(places).astype(int)
    assert np.abs(places - nearest).max() < 0.05
    values = np.asarray(source.dataobj)
    values = values.reshape(values.shape[:3])
    assert (values[tuple(nearest.T)] > limit).all()
