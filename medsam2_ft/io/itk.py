"""NRRD, MHA and MHD through SimpleITK; also writes NIfTI. The only importer of SimpleITK.

ITK's world is ours (LPS), its sizes and spacings are (x, y, z) and are turned here.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from medsam2_ft.errors import UserError
from medsam2_ft.io.atomic import atomic_path, file_stem, sync_and_replace, write_failure
from medsam2_ft.io.checks import check_geometry
from medsam2_ft.io.detached import data_files
from medsam2_ft.io.npz_zip import check_size
from medsam2_ft.types import Geometry, Volume

sitk: Any = SimpleITK  # its type information is partial

TWO_FILE_SUFFIXES = (".mhd", ".nhdr")
_WRITABLE = {np.dtype(np.bool_): np.uint8, np.dtype(np.float16): np.float32}


def read_layers(
    path: Path, *, fourth_axis: bool = False
) -> tuple[NDArray[Any], Geometry, dict[str, str]]:
    """Reads an image of any number of channels, with the texts of its header.

    Args:
        path: The file.
        fourth_axis: Whether a fourth axis, beside one channel, is taken for the channels.

    Returns:
        Array ``(z, y, x, c)`` with c >= 1, the grid, and the header's key-value pairs.

    Raises:
        UserError: Missing, damaged or truncated, 4-D, complex, beyond the size limit, or with
            values in a file outside its folder.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    data_files(path)  # refuses those that lie elsewhere
    reader = sitk.ImageFileReader()
    reader.SetFileName(_name(path))
    with _quiet():
        _run(path, reader.ReadImageInformation)
        size, channels = reader.GetSize(), reader.GetNumberOfComponents()
        layered = fourth_axis and len(size) == 4 and channels == 1
        if not 2 <= len(size) <= 3 and not layered:
            raise UserError(
                f"{path}: is {len(size)}-D ({' x '.join(str(n) for n in size)}); "
                "pick one channel or time point and save it as a 3D volume"
            )
        check_size(str(path), math.prod(size) * channels)
        geometry = _geometry(path, reader)
        texts = {k: _text(reader.GetMetaData(k)) for k in reader.GetMetaDataKeys() if k.isascii()}
        image = _run(path, reader.Execute)
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind not in "uif":
        raise UserError(f"{path}: values of type {array.dtype}; convert it to real numbers")
    if layered:
        return np.moveaxis(array, 0, -1), geometry, texts
    z = size[2] if len(size) == 3 else 1
    return array.reshape(z, size[1], size[0], channels), geometry, texts


def read_itk(path: Path) -> Volume:
    """Reads one gray volume or an RGB volume of uint8.

    Raises:
        UserError: As ``read_layers``; or several channels that are not RGB.
    """
    array, geometry, _ = read_layers(path)
    channels = array.shape[-1]
    if channels == 1:
        return Volume(array[..., 0], geometry)
    if channels == 3 and array.dtype == np.uint8:
        return Volume(array, geometry)
    raise UserError(
        f"{path}: has {channels} channels of {array.dtype}; pick one and save it as a 3D volume "
        "(colour must be three channels of uint8)"
    )


def _name(path: Path) -> str:
    """The path as SimpleITK takes it; at one that is no UTF-8 it aborts the process.

    Raises:
        UserError: The path is no UTF-8.
    """
    name = str(path)
    if not name.isascii() and name != name.encode(errors="ignore").decode():
        raise UserError(f"{path}: its path is no UTF-8; rename the file or folder")
    return name


def _text(value: str) -> str:
    """Replaces bytes that are not UTF-8, which SimpleITK hands over as lone surrogates."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _run(path: Path, action: Callable[[], Any]) -> Any:
    """Runs a SimpleITK call, whose every failure is a RuntimeError."""
    try:
        return action()
    except (RuntimeError, UnicodeDecodeError, MemoryError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1][:200] if lines else type(error).__name__
        if reason.startswith("Reason:"):  # MetaImageIO adds whatever errno was left over
            reason = "its data is missing or incomplete"
        raise UserError(
            f"{path}: cannot be read ({reason}); the file is truncated, damaged or of another "
            "format: copy it again"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps ITK's warnings off the terminal; what matters is raised."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _geometry(path: Path, reader: Any) -> Geometry:
    spacing, origin = list(reader.GetSpacing()), list(reader.GetOrigin())
    direction = np.array(reader.GetDirection()).reshape(len(spacing), -1)
    if len(spacing) == 2:
        spacing, origin = [*spacing, 1.0], [*origin, 0.0]
        direction = np.block([[direction, np.zeros((2, 1))], [np.zeros((1, 2)), np.eye(1)]])
    if len(spacing) == 4:  # of the layers, too; a grid that leans into them fails the check
        spacing, origin, direction = spacing[:3], origin[:3], direction[:3, :3]
    return check_geometry(str(path), spacing, origin, direction)


def write_itk(path: Path, volume: Volume) -> None:
    """Writes NIfTI, NRRD, MHA or MHD, compressed, atomically; the suffix decides.

    Raises:
        UserError: The array is no volume, its type has no place in the format, or the file
            cannot be written.
    """
    array = volume.array
    if array.ndim not in (3, 4) or 0 in array.shape or array.dtype.kind not in "buif":
        raise UserError(
            f"{path}: cannot write {array.dtype} of shape {array.shape}; "
            "give real numbers as (z, y, x) or (z, y, x, 3)"
        )
    array = array.astype(_WRITABLE.get(array.dtype, array.dtype), copy=False)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=array.ndim == 4)
    image.SetSpacing(volume.geometry.spacing_mm[::-1])
    image.SetOrigin(volume.geometry.origin_mm)
    image.SetDirection(volume.geometry.direction)
    if path.suffix.lower() in TWO_FILE_SUFFIXES:
        _write_two_files(path, image)
        return
    with atomic_path(path) as temporary:
        _write_image(path, image, temporary)


def _write_image(path: Path, image: Any, place: Path) -> None:
    try:
        with _quiet():
            sitk.WriteImage(image, _name(place), useCompression=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-160:]
        raise UserError(
            f"{path}: cannot be written ({reason}); check room and rights in {path.parent}, "
            "or choose another format"
        ) from error


def _write_two_files(path: Path, image: Any) -> None:
    """Header and data: both complete in a folder beside the target, then the data first."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{file_stem(path)[:60]}.tmp-", dir=path.parent))
    except OSError as error:
        raise write_failure(path, error) from error
    try:
        _write_image(path, image, folder / path.name)
        parts = sorted(folder.iterdir(), key=lambda part: part.name == path.name)
        for part in parts:
            sync_and_replace(part, path.with_name(part.name))
    except OSError as error:
        raise write_failure(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
