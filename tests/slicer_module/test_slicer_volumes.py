"""A box drawn in Slicer's scene, in voxel indices, and on the page give the same mask.

Real volumes as they lie in the scanner, all permutations and flips of the axes, and a tiny real
SAM2. What is downloaded overlays the source where nibabel says that both lie.
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
from live import Client, running
from pages import User as PageUser
from test_serve_stack import export
from test_slicer_geometry import GRIDS, SHAPE, roi_on, view_on, volume_of

from medsam2_ft.serve import wire
from medsam2_ft.serve.engine import FakeEngine, ModelEngine
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
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    settings = Settings(work_dir=tmp_path_factory.mktemp("fake"), max_sessions=400)
    with running(FakeEngine(), settings) as number:
        yield number


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


def draw_box(user: User, slicer: Any, target: Any, axis: int, index: int, box: Any) -> None:
    """What the panel does: corners in the world, a view, a slice, pixels."""
    from MedSAM2FTLib.geometry import box_of_clicks, box_on_slice

    corners = []
    for x, y in (box[:2], box[2:]):
        place = [0.0, 0.0, 0.0]
        columns, rows = ({0: (0, 1), 1: (0, 2), 2: (1, 2)})[axis]
        place[columns], place[rows], place[2 - axis] = x + 0.2, y - 0.3, index
        corners.append(place)
    matrix = user.grid.ijk_to_ras
    world = np.array(corners) @ matrix[:3, :3].T + matrix[:3, 3]
    view = view_on(slicer, matrix, axis, index)
    on = user.scene.slice_in(user.scene.view_at(world.mean(axis=0), view.GetID()), user.grid)
    found = box_of_clicks(user.scene.ijk_of(user.grid.volume_id, world), user.grid.shape)
    user.controller.prompt_box(target, on, box_on_slice(found, on.axis))
    user.done()


def by_api(port: int, array: Any, axis: int, index: int, box: Any, **asked: Any) -> Any:
    client = Client(port)
    client.upload(array, **asked)
    said = client.prompt(axis=axis, index=index, box=list(box))
    client.call("DELETE", client.session)
    mask = np.zeros(array.shape[:3], bool)
    for region in said["regions"]:
        wire.apply_region(mask, region)
    return mask


@pytest.mark.parametrize("matrix", GRIDS)
def test_a_drawn_box_is_the_box_in_voxels(slicer: Any, scene: Any, fake: int, matrix: Any) -> None:
    array = np.random.default_rng(1).integers(0, 255, SHAPE, dtype=np.uint8)
    user = User(scene, fake)
    user.send(volume_of(slicer, matrix, array))
    for axis, index, box in ((0, 3, [1, 2, 7, 5]), (1, 6, [2, 0, 9, 4]), (2, 8, [1, 1, 6, 5])):
        target = user.segment(f"{axis}")
        draw_box(user, slicer, target, axis, index, box)
        assert np.array_equal(user.mask(target), by_api(fake, array, axis, index, box))
    region = user.segment("roi")
    inside = np.array([[2, 3, 1], [8, 6, 4]])
    from MedSAM2FTLib.geometry import box_on_slice, range_of_box

    found = scene.roi_box(roi_on(slicer, matrix, inside).GetID(), user.grid)
    user.box(region, 0, 2, box_on_slice(found, 0))
    user.propagate([region], 0, range_of_box(found, 0))
    expected = np.zeros(SHAPE, bool)
    expected[1:5, 3:7, 2:9] = True
    assert np.array_equal(user.mask(region), expected)
    user.controller.close()


def by_page(port: int, path: Path, index: int, box: Any, folder: Path) -> Any:
    """Opens the file itself, draws the box on a slice along the first axis, saves a NIfTI."""
    page = PageUser(port, folder)
    page.open("volume", path)
    page("volume_box", 1, 0, index, *box)
    return nibabel.load(page.save("volume", "nii.gz"))


def voxels_in(source: Any, affine: Any, voxels: Any) -> Any:
    """The places of voxels of another grid in the source's, in order; they must be its centers."""
    places = nibabel.affines.apply_affine(np.linalg.inv(source.affine) @ affine, voxels)
    nearest = np.rint(places).astype(int)
    assert np.abs(places - nearest).max() < 0.05
    return nearest[np.lexsort(nearest.T)]


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
            drawn = by_page(tiny, path, index, box, tmp_path / "page")
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
