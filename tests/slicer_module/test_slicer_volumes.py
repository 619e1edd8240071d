"""A box drawn in Slicer's scene, in voxel indices, and on the page give the same mask.

Real volumes as they lie in the scanner, and a tiny real SAM2. What is downloaded overlays the
source where nibabel says that both lie.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from driver import User
from live import running
from pages import User as PageUser
from test_serve_stack import export
from test_slicer_geometry import GRIDS, volume_of
from ways import by_api, by_page, draw_box, voxels_in

from medsam2_ft.serve import wire
from medsam2_ft.serve.engine import ModelEngine
from medsam2_ft.serve.registry import Registry
from medsam2_ft.serve.settings import Settings

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer_core", reason="slicer-core has wheels for Python 3.11 alone")

VOLUMES = {
    "LPS": "CT/ivadomed_spleen/sub-spleen2_ct.nii.gz",
    "P-S-R": "MR/sct_spinalcord/t2.nii.gz",
    "10 mm": "PET/ibsi_sts_nifti/STS_008/PET_image.nii.gz",
    "RAS": "MR/brats2015_deepmedic/brats_2013_pat0006_1/Flair_subtrMeanDivStd.nii.gz",
    "ultrasound": "ultrasound/deepreg_trus3d/images/case000025.nii.gz",
    "oblique": "",
}
LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("tiny")
    export(folder, "first", 3)
    engine = ModelEngine(Registry(watch=[str(folder / "*" / "exports")]), "first/best", "cpu")
    with running(engine, Settings(work_dir=folder / "work"), page=True) as number:
        yield number


def load(slicer: Any, path: Path) -> Any:
    """Puts a file into the scene as Slicer's reader does: its voxels, LPS turned into RAS."""
    image = SimpleITK.ReadImage(str(path))
    if image.GetDimension() == 4:
        image = image[..., 0]
    array = SimpleITK.GetArrayFromImage(image)
    matrix = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    matrix[:3, :3] = direction * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    kind = array if array.dtype.name in wire.DTYPES else array.astype(np.float64)
    return volume_of(slicer, LPS_TO_RAS @ matrix, kind)


def oblique_file(folder: Path) -> Path:
    turn, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.9, 1.1, 10.0]
    affine[:3, 3] = [5, -7, 11]
    values = np.random.default_rng(5).integers(0, 1000, (40, 44, 8)).astype(np.int16)
    nibabel.Nifti1Image(values, affine).to_filename(folder / "oblique.nii.gz")
    return folder / "oblique.nii.gz"


@pytest.mark.parametrize("name", list(VOLUMES))
def test_real_volumes_and_a_real_model(
    slicer: Any, scene: Any, tiny: int, name: str, tmp_path: Path, test_data: Path
) -> None:
    path = test_data / VOLUMES[name] if VOLUMES[name] else oblique_file(tmp_path)
    volume = load(slicer, path)
    user = User(scene, tiny)
    user.send(volume)
    array, grid = scene.read_volume(volume.GetID(), None)
    for axis in (0, 1):
        k, j, i = grid.shape
        high, wide = ((j, i), (k, i))[axis]
        index = grid.shape[axis] // 2
        box = [wide // 4, high // 4, wide // 4 + max(2, wide // 3), high // 4 + max(2, high // 3)]
        box[2], box[3] = min(box[2], wide - 1), min(box[3], high - 1)
        target = user.segment(f"{axis}")
        draw_box(user, slicer, target, axis, index, box)
        mask = user.mask(target)
        assert mask.any()
        assert np.array_equal(mask, by_api(tiny, array, axis, index, box))
        if axis == 0:
            drawn = by_page(PageUser(tiny, tmp_path / "page"), path, index, box)
    session = user.controller.session
    assert session is not None
    answer = session.client.call("GET", f"{session.path}/masks?format=nii.gz")
    if answer.status == 202:
        session.result(answer)
        answer = session.client.call("GET", f"/jobs/{answer.json['job_id']}/file")
    saved = nibabel.Nifti1Image.from_bytes(gzip.decompress(answer.body))
    source = nibabel.load(path)
    shown = [user.mask(t) for t in user.controller.masks.targets.values()]
    nearest = voxels_in(source, saved.affine, np.argwhere(np.asarray(saved.dataobj) > 0))
    assert len(nearest) == (shown[0] | shown[1]).sum()
    values = np.asarray(source.dataobj)
    values = values.reshape(values.shape[:3])[tuple(nearest.T)]
    stored = array[shown[0] | shown[1]]
    assert np.allclose(np.sort(values), np.sort(stored))
    paged = voxels_in(source, drawn.affine, np.argwhere(np.asarray(drawn.dataobj) > 0))
    in_scene = np.argwhere(shown[0])[:, ::-1]
    assert np.array_equal(paged, voxels_in(source, grid.ijk_to_ras, in_scene))
    user.controller.close()


def test_the_real_model_corrects_propagates_and_takes_back(
    slicer: Any, scene: Any, tiny: int
) -> None:
    array = np.random.default_rng(1).integers(0, 256, (6, 40, 36), dtype=np.uint8)
    user = User(scene, tiny)
    user.send(volume_of(slicer, GRIDS[5].values[0], array), strategy="memory")
    target = user.segment()
    user.box(target, 0, 2, [4, 6, 25, 30])
    first = user.mask(target)
    user.propagate([target], 0, (1, 4))
    carried = user.mask(target)
    assert not carried[0].any()
    assert carried[1:5].any()
    user.point(target, 0, 4, [10, 10], 0)
    corrected = user.mask(target)
    assert np.array_equal(corrected, user.servers(target))
    assert not np.array_equal(corrected, carried)
    user.propagate([target], 0, (2, 5))
    assert np.array_equal(user.mask(target), user.servers(target))
    assert user.mask(target)[5].any()
    for expected in (corrected, carried, first):
        user.undo()
        assert np.array_equal(user.mask(target), expected)
    user.controller.close()
