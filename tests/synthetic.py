"""Generated cases for tests: ellipses and non-convex crescents, gray or colour, any size.

The files are written with plain numpy, so that tests of our reader do not lean on our writer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Form = Literal["ellipse", "crescent"]


def ellipsoid_mask(
    shape_zyx: Sequence[int], centre_zyx: Sequence[float], radii_zyx: Sequence[float]
) -> NDArray[np.bool_]:
    """Mask of an axis-aligned ellipsoid, bool (z, y, x)."""
    grids = np.ogrid[tuple(slice(0, int(n)) for n in shape_zyx)]
    inside: NDArray[Any] = sum(
        ((grid - c) / max(float(r), 0.5)) ** 2
        for grid, c, r in zip(grids, centre_zyx, radii_zyx, strict=True)
    )
    return inside <= 1.0


def crescent_mask(
    shape_zyx: Sequence[int], centre_zyx: Sequence[float], radii_zyx: Sequence[float], angle: float
) -> NDArray[np.bool_]:
    """An ellipsoid with a bite taken out along ``angle`` (radians, in the slice plane)."""
    _, ry, rx = radii_zyx
    bite_centre = (
        centre_zyx[0],
        centre_zyx[1] + 0.5 * ry * np.sin(angle),
        centre_zyx[2] + 0.5 * rx * np.cos(angle),
    )
    bite = ellipsoid_mask(shape_zyx, bite_centre, (1e6, 0.8 * ry, 0.8 * rx))
    return ellipsoid_mask(shape_zyx, centre_zyx, radii_zyx) & ~bite


def make_volume(
    shape_zyx: tuple[int, int, int] = (6, 48, 56),
    labels: Sequence[int] = (1, 2, 3),
    *,
    form: Form | Literal["mixed"] = "mixed",
    colour: bool = False,
    seed: int = 0,
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """An image and its labels; every label lies in its own cell of the slice plane.

    The middle slice shows every label; the first and the last slice of a volume of at least four
    slices are free of labels. Each label has its own brightness (and hue), over noise.

    Returns:
        imgs uint8 (z, y, x) or (z, y, x, 3), and gts uint16 (z, y, x).
    """
    rng = np.random.default_rng(seed)
    depth, height, width = shape_zyx
    columns = int(np.ceil(np.sqrt(len(labels))))
    rows = int(np.ceil(len(labels) / columns)) if labels else 1
    cell_y, cell_x = height / rows, width / max(columns, 1)
    gts = np.zeros(shape_zyx, np.uint16)
    hues = rng.uniform(-30, 30, size=(len(labels) + 1, 3))
    channels = np.full((*shape_zyx, 3), 60.0, np.float32) + hues[-1].astype(np.float32) * 0.3
    for i, label in enumerate(labels):
        radius_y, radius_x = rng.uniform(0.3, 0.42, size=2) * (cell_y, cell_x)
        radius_z = depth if depth < 4 else 0.5 * depth - 0.6
        centre = ((depth - 1) / 2, (i // columns + 0.5) * cell_y, (i % columns + 0.5) * cell_x)
        radii = (radius_z, radius_y, radius_x)
        crescent = form == "crescent" or (form == "mixed" and i % 2 == 1)
        if crescent:
            mask = crescent_mask(shape_zyx, centre, radii, float(rng.uniform(0, 2 * np.pi)))
        else:
            mask = ellipsoid_mask(shape_zyx, centre, radii)
        gts[mask] = label
        level = 130.0 + 90.0 * (i + 1) / len(labels)
        channels[mask] = level + hues[i].astype(np.float32)
    channels += rng.normal(0, 8, size=(*shape_zyx, 1)).astype(np.float32)
    imgs = np.clip(channels if colour else channels.mean(axis=-1), 0, 255).astype(np.uint8)
    return imgs, gts


def write_npz(
    path: Path,
    shape_zyx: tuple[int, int, int] = (6, 48, 56),
    labels: Sequence[int] = (1, 2, 3),
    *,
    form: Form | Literal["mixed"] = "mixed",
    colour: bool = False,
    seed: int = 0,
    spacing_xyz: tuple[float, float, float] = (0.8, 0.9, 2.5),
    modality: str | None = None,
    **extra: Any,
) -> Path:
    """Writes one generated case in the npz layout of the design; ``extra`` adds or replaces keys.

    A key of ``extra`` whose value is None is left out (``gts=None`` makes a case without labels).
    """
    imgs, gts = make_volume(shape_zyx, labels, form=form, colour=colour, seed=seed)
    keys: dict[str, Any] = {"imgs": imgs, "gts": gts, "spacing": np.array(spacing_xyz)}
    if modality is not None:
        keys["modality"] = np.array(modality)
    keys.update(extra)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{k: np.asarray(v) for k, v in keys.items() if v is not None})
    return path


def write_folder(
    folder: Path, count: int = 4, labels: Sequence[int] = (1, 2, 3), seed: int = 0
) -> Path:
    """A folder of ``count`` cases of mixed sizes and depths, every fourth one in colour."""
    shapes = [(6, 48, 56), (5, 64, 64), (1, 80, 60), (9, 40, 40)]
    for i in range(count):
        write_npz(
            folder / f"case_{i:03d}.npz",
            shapes[i % len(shapes)],
            labels,
            colour=i % 4 == 3,
            seed=seed + i,
        )
    return folder
