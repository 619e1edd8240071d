"""The same box by three ways: drawn in Slicer's scene, said to the API, drawn on the page."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from driver import User
from live import Client
from pages import User as PageUser
from test_slicer_geometry import view_on

from medsam2_ft.serve import wire


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
    on = user.views.slice_in(user.views.view_at(world.mean(axis=0), view.GetID()), user.grid)
    found = box_of_clicks(user.views.ijk_of(user.grid.volume_id, world), user.grid.shape)
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


def by_page(page: PageUser, path: Path, index: int, box: Any) -> Any:
    """Opens the file itself, draws the box on a slice along the first axis, saves a NIfTI."""
    page.open("volume", path)
    page("volume_box", 1, 0, index, *box)
    return nibabel.load(page.save("volume", "nii.gz"))


def voxels_in(source: Any, affine: Any, voxels: Any) -> Any:
    """The places of voxels of another grid in the source's, in order; they must be its centers."""
    places = nibabel.affines.apply_affine(np.linalg.inv(source.affine) @ affine, voxels)
    nearest = np.rint(places).astype(int)
    assert np.abs(places - nearest).max() < 0.05
    return nearest[np.lexsort(nearest.T)]
