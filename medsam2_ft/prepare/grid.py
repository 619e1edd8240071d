"""Labels on the grid of their image: compared, turned or resampled, never matched by luck."""

from dataclasses import replace

import numpy as np

from medsam2_ft.errors import UserError
from medsam2_ft.io.regrid import (
    TOLERANCE_VOXELS,
    Shape,
    describe,
    grid_offset_voxels,
    regrid_labels,
)
from medsam2_ft.types import IDENTITY_DIRECTION, Geometry, LabelVolume, Volume


def on_image_grid(
    image: Volume, labels: LabelVolume, image_file: str, label_file: str
) -> LabelVolume:
    """Returns labels on the grid of their image.

    Args:
        image: The image.
        labels: Its labels.
        image_file: Name for messages.
        label_file: Name for messages.

    Returns:
        The labels as they are where the grids agree (no corner further off than
        ``TOLERANCE_VOXELS``), otherwise by the nearest voxel in world space, with a note. Where a
        file does not say where its grid lies, shapes alone are compared.

    Raises:
        UserError: Another shape where one file has no geometry; no label within the image; or
            equal shapes, but a header that looks as if it had never been set.
    """
    shape: Shape = (image.array.shape[0], image.array.shape[1], image.array.shape[2])
    shapes = {label_map.shape for label_map in labels.maps}
    if not (image.has_geometry and labels.has_geometry):
        if shapes != {shape}:
            raise UserError(
                f"{label_file}: shape {min(shapes)} (z, y, x) is not that of {image_file}, "
                f"{shape}, and without positions in both files the labels cannot be placed; give "
                "the label file of this image"
            )
        return replace(labels, geometry=image.geometry)
    if shapes == {shape}:
        _check_header_is_set(image.geometry, labels.geometry, shape, image_file, label_file)
    return regrid_labels(labels, image.geometry, shape, label_file)


def _check_header_is_set(
    image: Geometry, label: Geometry, shape: Shape, image_file: str, label_file: str
) -> None:
    """Refuses equal shapes in different places where one place is what a program writes by default.

    Such a file was most probably saved without its header: by world positions the labels would come
    to lie somewhere else in the image.
    """
    if grid_offset_voxels(label, image, shape) <= TOLERANCE_VOXELS:
        return
    for geometry, file in ((label, label_file), (image, image_file)):
        if _is_default(geometry):
            raise UserError(
                f"{file}: lies elsewhere than its image or label file of the same shape, and looks "
                f"as if its header had never been set: {describe(label)} (labels) against "
                f"{describe(image)} (image, {image_file}); correct the header"
            )


def _is_default(geometry: Geometry) -> bool:
    """Voxels of 1 mm at the origin, axes along the world's."""
    return (
        geometry.spacing_mm == (1.0, 1.0, 1.0)
        and geometry.origin_mm == (0.0, 0.0, 0.0)
        and bool(np.array_equal(np.abs(geometry.direction), IDENTITY_DIRECTION))
    )
