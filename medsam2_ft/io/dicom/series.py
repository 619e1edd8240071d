"""Reads one DICOM series as a volume or a video."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from medsam2_ft.errors import UserError
from medsam2_ft.io.dicom.assembly import Assembly
from medsam2_ft.io.dicom.header import Plane, read_image_header
from medsam2_ft.io.dicom.modality import our_modality
from medsam2_ft.io.dicom.pet import suv_factor
from medsam2_ft.io.dicom.pixels import FileValues
from medsam2_ft.io.dicom.stack import Stack, stack_planes
from medsam2_ft.io.npz_zip import check_size
from medsam2_ft.types import Volume


def read_series(files: Sequence[Path]) -> Volume:
    """Reads the files of one series, in any order; also one multi-frame or single-slice file.

    Values are rescaled slice by slice (int16 where that is exact and fits, as for CT), PET becomes
    SUV by body weight where the header allows, MONOCHROME1 is inverted, colour becomes RGB.

    Raises:
        UserError: A damaged or missing file, images that make no rectangular grid (the module
            ``stack`` has the rules), different images at one place, an encoding that cannot be
            decoded, or beyond the size limit.
    """
    if not files:
        raise UserError("a DICOM series has no files; give at least one")
    paths = [Path(file) for file in files]
    where = paths[0] if len(paths) == 1 else paths[0].parent
    headers = [read_image_header(path) for path in paths]
    codes = sorted({header.code for header in headers})
    if len(codes) > 1:
        raise UserError(
            f"{where}: mixes the modalities {', '.join(codes)}; give the files of one series"
        )
    stack = stack_planes(where, [plane for header in headers for plane in header.planes])
    rows, columns, samples = stack.slices[0][0].shape
    check_size(str(where), len(stack.slices) * rows * columns * samples)
    facts = [header.pet_facts for header in headers if header.pet_facts is not None]
    factor, suv_note = suv_factor(facts) if facts else (1.0, "")
    assembly, notes = _assemble(where, stack, factor)
    return Volume(
        assembly.array,
        stack.geometry,
        has_geometry=stack.has_geometry,
        is_video=headers[0].is_cine,
        modality=our_modality(codes[0]),
        notes=(*stack.notes, *notes, *((suv_note,) if suv_note else ())),
    )


def _assemble(where: Path, stack: Stack, factor: float) -> tuple[Assembly, list[str]]:
    slots: dict[Path, list[tuple[int, Plane]]] = defaultdict(list)
    for z, planes in enumerate(stack.slices):
        for plane in planes:
            slots[plane.path].append((z, plane))
    assembly = Assembly(len(stack.slices))
    notes: set[str] = set()
    padded = 0
    for path, placed in slots.items():
        z_of = {plane.frame: z for z, plane in placed}
        values = FileValues(path)
        for plane, array in values.planes([plane for _, plane in placed], factor):
            if not assembly.put(z_of[plane.frame], array):
                raise UserError(_conflict(where, stack))
        padded += values.padded
        notes |= values.notes
    copies = sum(len(planes) - 1 for planes in stack.slices)
    if copies:
        notes.add(f"{copies} slices that are there twice are taken once")
    if padded:
        notes.add(f"{padded} values are padding outside the scan (PixelPaddingValue)")
    return assembly, sorted(notes)


def _conflict(where: Path, stack: Stack) -> str:
    """Says how many images lie at one place and what tells them apart."""
    crowded = [planes for planes in stack.slices if len(planes) > 1]
    most = max(len(planes) for planes in crowded)
    differences = []
    for name in dict(crowded[0][0].traits):
        values = sorted({dict(plane.traits).get(name, "") for plane in crowded[0]})
        if len(values) > 1:
            differences.append(f"{name} ({', '.join(value[:24] for value in values[:4])})")
    reason = f"they differ in {'; '.join(differences)}" if differences else "no tag tells why"
    return (
        f"{where}: up to {most} different images lie at the same place in {len(crowded)} of "
        f"{len(stack.slices)} slices; {reason}: put the files of each volume in a folder of its own"
    )
