"""A box drawn in Slicer's scene, in voxel indices, and on the page give the same mask.

All permutations and flips of the axes, and oblique ones; boxes instead of a model.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from driver import User
from live import running
from pages import User as PageUser
from test_slicer_geometry import GRIDS, SHAPE, roi_on, volume_of
from ways import by_api, by_page, draw_box, voxels_in

from medsam2_ft.serve.engine import FakeEngine
from medsam2_ft.serve.settings import Settings

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer_core", reason="slicer-core has wheels for Python 3.11 alone")


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    settings = Settings(work_dir=tmp_path_factory.mktemp("fake"), max_sessions=400)
    with running(FakeEngine(), settings, page=True) as number:
        yield number


@pytest.fixture(scope="module")
def page(fake: int, tmp_path_factory: pytest.TempPathFactory) -> PageUser:
    return PageUser(fake, tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("matrix", GRIDS)
def test_a_drawn_box_is_the_box_in_voxels(
    slicer: Any, scene: Any, views: Any, fake: int, page: PageUser, matrix: Any, tmp_path: Path
) -> None:
    array = np.random.default_rng(1).integers(0, 255, SHAPE, dtype=np.uint8)
    user = User(scene, fake)
    user.send(volume_of(slicer, matrix, array))
    for axis, index, box in ((0, 3, [1, 2, 7, 5]), (1, 6, [2, 0, 9, 4]), (2, 8, [1, 1, 6, 5])):
        target = user.segment(f"{axis}")
        draw_box(user, slicer, target, axis, index, box)
        assert np.array_equal(user.mask(target), by_api(fake, array, axis, index, box))
    source = nibabel.Nifti1Image(array.T, matrix)
    source.to_filename(tmp_path / "ct.nii.gz")
    drawn = by_page(page, tmp_path / "ct.nii.gz", 3, [1, 2, 7, 5])
    paged = voxels_in(source, drawn.affine, np.argwhere(np.asarray(drawn.dataobj) > 0))
    in_scene = np.argwhere(by_api(fake, array, 0, 3, [1, 2, 7, 5]))[:, ::-1]
    assert np.array_equal(paged, voxels_in(source, user.grid.ijk_to_ras, in_scene))
    region = user.segment("roi")
    inside = np.array([[2, 3, 1], [8, 6, 4]])
    from MedSAM2FTLib.geometry import box_on_slice, range_of_box

    found = views.roi_box(roi_on(slicer, matrix, inside).GetID(), user.grid)
    user.box(region, 0, 2, box_on_slice(found, 0))
    user.propagate([region], 0, range_of_box(found, 0))
    expected = np.zeros(SHAPE, bool)
    expected[1:5, 3:7, 2:9] = True
    assert np.array_equal(user.mask(region), expected)
    user.controller.close()
