"""Reads NIfTI-1 and NIfTI-2 single files (``.nii``, ``.nii.gz``).

Not through ITK, because its reader (measured with ITK 5.4) returns zeros for the missing part of a
truncated file, squares up sheared axes without an error, and ignores the scale of an sform that
disagrees with ``pixdim``.

The world is turned from NIfTI's RAS to ITK's LPS. The sform is taken where its code is set, else
the qform, else the voxel size alone with the axes along L, P and S and the origin at zero.
Format: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
"""

import io
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.checks import check_geometry
from medsam2_ft.io.npz_zip import check_size
from medsam2_ft.types import Geometry, Volume

_log = logging.getLogger(__name__)

_FIELDS = ("dim", "datatype", "pixdim", "vox_offset", "scl", "units", "forms", "quatern", "srow")
_HEADERS = {
    348: np.dtype(
        {
            "names": (*_FIELDS, "magic"),
            "formats": ("8i2", "i2", "8f4", "f4", "2f4", "u1", "2i2", "6f4", "(3,4)f4", "S4"),
            "offsets": (40, 70, 76, 108, 112, 123, 252, 256, 280, 344),
            "itemsize": 348,
        }
    ),
    540: np.dtype(
        {
            "names": (*_FIELDS, "magic"),
            "formats": ("8i8", "i2", "8f8", "i8", "2f8", "i4", "2i4", "6f8", "(3,4)f8", "S8"),
            "offsets": (16, 12, 104, 168, 176, 500, 344, 352, 400, 4),
            "itemsize": 540,
        }
    ),
}
_DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    128: "u1",  # RGB24: three uint8
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_RGB24 = 128
_UNIT_MM = {1: 1000.0, 3: 0.001}  # metre, micrometre; everything else means millimetre
_REPAIRABLE_SHEAR = 0.02  # cosine between two axes that is still taken for rounding: 1 degree
_EXACT_SHEAR = 1e-5
_CHUNK_BYTES = 1 << 24
_DEFLATE_ERROR = cast(type[Exception], isal_zlib.error)  # its stub calls the class an instance


@dataclass(frozen=True)
class _Header:
    """The header's fields, and what follows from them.

    Attributes:
        fields: One record of ``_HEADERS``.
        dtype: Element type in the file's byte order.
        shape: ``(z, y, x)``, or ``(z, y, x, c)`` for colour or layers.
        planar: Whether the three colours are stored one after the other.
    """

    fields: Any
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    planar: bool


def read_nifti(path: Path) -> Volume:
    """Reads one volume.

    Values keep the stored type, unless the header scales them: then they are float32 (float64
    where float64 is stored).

    Raises:
        UserError: Not NIfTI, truncated or damaged, more than one channel or time point, sheared
            axes, an invalid voxel size, a type that is no real number, or beyond the size limit.
    """
    header, stored = _read_stored(path, layered=False)
    if header.planar:
        array = np.ascontiguousarray(np.moveaxis(stored.reshape((3, *header.shape[:3])), 0, -1))
    else:
        array = _scaled(stored.reshape(header.shape), header.fields["scl"])
    return Volume(array, _geometry(path, header.fields))


def read_nifti_layers(path: Path) -> tuple[NDArray[Any], Geometry]:
    """Reads a volume whose further axes, if any, are layers: one-hot labels, for example.

    Returns:
        Array ``(z, y, x, c)`` with c >= 1, scaled as by ``read_nifti``, and the grid.

    Raises:
        UserError: As ``read_nifti``, except for the further axes; or colour.
    """
    header, stored = _read_stored(path, layered=True)
    if int(header.fields["datatype"]) == _RGB24:
        raise UserError(f"{path}: is colour, not labels; give the label file")
    array = _scaled(stored.reshape((-1, *header.shape[:3])), header.fields["scl"])
    return np.moveaxis(array, 0, -1), _geometry(path, header.fields)


def _read_stored(path: Path, *, layered: bool) -> tuple[_Header, NDArray[Any]]:
    """The header, and the values as one axis in the machine's byte order."""
    opener = igzip.open if path.name.lower().endswith(".gz") else open
    try:
        with cast(io.BufferedIOBase, opener(path, "rb")) as stream:
            header = _read_header(path, stream, layered=layered)
            count = math.prod(header.shape)
            check_size(str(path), count)
            stored = np.empty(count, header.dtype)
            _fill(stream, stored)
            stream.read(1)  # reaches the end of a gzip file, where its checksum is verified
    except (EOFError, _DEFLATE_ERROR, OSError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); the file is missing, truncated or damaged: "
            "copy it again"
        ) from error
    return header, stored.astype(header.dtype.newbyteorder("="), copy=False)


def _read_header(path: Path, stream: io.BufferedIOBase, *, layered: bool) -> _Header:
    start = stream.read(4)
    order: Literal["little", "big"]
    for order in ("little", "big"):
        size = int.from_bytes(start, order)
        if size in _HEADERS and len(start) == 4:
            break
    else:
        raise UserError(f"{path}: is not a NIfTI file; check that it is complete and unencrypted")
    raw = start + stream.read(size - 4)
    if len(raw) < size:
        raise EOFError("the header is incomplete")
    fields = np.frombuffer(raw, _HEADERS[size].newbyteorder(order))[0]
    if fields["magic"][:3] not in (b"n+1", b"n+2"):
        raise UserError(
            f"{path}: is an Analyze file or the header of a NIfTI pair; convert it to one .nii file"
        )
    offset = float(fields["vox_offset"])
    if not size <= offset < 1 << 31:
        raise UserError(f"{path}: data offset {offset:g} is impossible; copy or convert it again")
    remaining = int(offset) - size
    while remaining:
        skipped = len(stream.read(min(remaining, _CHUNK_BYTES)))
        if not skipped:
            raise EOFError("the data is missing")
        remaining -= skipped
    code = int(fields["datatype"])
    if code not in _DTYPES:
        raise UserError(
            f"{path}: NIfTI data type {code} (RGBA, complex or 128 bit) is not supported; "
            "convert it to one real channel or RGB"
        )
    shape, planar = _shape(path, fields, code, layered=layered)
    return _Header(fields, np.dtype(_DTYPES[code]).newbyteorder(order), shape, planar)


def _shape(path: Path, fields: Any, code: int, *, layered: bool) -> tuple[tuple[int, ...], bool]:
    axes = int(fields["dim"][0])
    dims = [int(n) for n in fields["dim"][1 : axes + 1]]
    if not 1 <= axes <= 7 or min(dims) < 1:
        raise UserError(f"{path}: extents {dims} of {axes} axes are impossible; copy it again")
    x, y, z, *rest = dims + [1] * (3 - len(dims))
    more = [n for n in rest if n > 1]
    if layered and code != _RGB24:
        return (z, y, x, math.prod(rest)), False
    if not more:
        return ((z, y, x, 3) if code == _RGB24 else (z, y, x)), False
    if more == [3] and len(rest) >= 2 and rest[1] == 3 and code == 2:
        return (z, y, x, 3), True
    raise UserError(
        f"{path}: is 4-D ({' x '.join(str(n) for n in dims)}: x, y, z and channels or time "
        "points); pick one of them and save it as a 3D volume"
    )


def _fill(stream: io.BufferedIOBase, array: NDArray[Any]) -> None:
    """Reads exactly the bytes of ``array``, in pieces.

    Raises:
        EOFError: The stream ends before.
    """
    view = array.view(np.uint8).data
    position = 0
    while position < len(view):
        piece = stream.read(min(_CHUNK_BYTES, len(view) - position))
        if not piece:
            raise EOFError(f"{len(view) - position} of {len(view)} bytes of data are missing")
        view[position : position + len(piece)] = piece
        position += len(piece)


def _scaled(array: NDArray[Any], scl: NDArray[Any]) -> NDArray[Any]:
    slope, intercept = float(scl[0]), float(scl[1])
    if slope == 0 or not math.isfinite(slope) or (slope, intercept) == (1.0, 0.0):
        return array
    intercept = intercept if math.isfinite(intercept) else 0.0
    result = np.empty(array.shape, np.float64 if array.dtype == np.float64 else np.float32)
    with np.errstate(over="ignore"):  # shows as an infinity, which the caller refuses
        for z, plane in enumerate(array):
            result[z] = plane.astype(np.float64) * slope + intercept
    return result


def _geometry(path: Path, fields: Any) -> Geometry:
    unit = _UNIT_MM.get(int(fields["units"]) & 7, 1.0)
    qform, sform = (int(code) for code in fields["forms"])
    pixdim = fields["pixdim"].astype(np.float64)
    sizes = pixdim[1:4]
    if int(fields["dim"][0]) < 3:
        sizes[int(fields["dim"][0]) :] = 1.0 / unit
    if sform > 0:
        affine = fields["srow"].astype(np.float64)
    elif qform > 0:
        affine = _qform_affine(fields["quatern"].astype(np.float64), sizes, pixdim[0])
    else:
        affine = np.column_stack([np.diag([-1.0, -1.0, 1.0]) * sizes, np.zeros(3)])
    affine = np.diag([-unit, -unit, unit]) @ affine  # RAS to LPS
    spacing = np.linalg.norm(affine[:, :3], axis=0)
    if not (np.isfinite(affine).all() and (spacing > 0).all()):
        raise UserError(
            f"{path}: its voxel size {spacing.tolist()} is zero or not finite; "
            "set the affine (for example to the identity where it is not known)"
        )
    direction = _orthonormal(path, affine[:, :3] / spacing)
    return check_geometry(str(path), spacing, affine[:, 3], direction)


def _qform_affine(
    quatern: NDArray[np.float64], sizes: NDArray[np.float64], qfac: float
) -> NDArray[np.float64]:
    b, c, d = quatern[:3]
    a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    flip = -1.0 if qfac < 0 else 1.0
    return np.column_stack([rotation * sizes * (1.0, 1.0, flip), quatern[3:]])


def _orthonormal(path: Path, direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the nearest rectangular axes; says so where that is more than rounding.

    Raises:
        UserError: Two axes are further than about one degree from the right angle.
    """
    shear = float(np.abs(direction.T @ direction - np.eye(3)).max())
    if shear <= _EXACT_SHEAR:
        return direction
    degrees = math.degrees(math.asin(min(shear, 1.0)))
    if shear > _REPAIRABLE_SHEAR:
        raise UserError(
            f"{path}: its axes are sheared by {degrees:.1f} degrees (a tilted gantry, for "
            "example); resample it to a rectangular grid"
        )
    _log.warning("%s: axes sheared by %.3f degrees are taken as rectangular", path, degrees)
    left, _, right = np.linalg.svd(direction)
    nearest: NDArray[np.float64] = left @ right
    return nearest
