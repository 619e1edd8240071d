"""What a DICOM image says about itself, read without its pixels: one ``Plane`` for each frame.

A classic file is one plane. A multi-frame file of the enhanced kind (CT, MR, PET, segmentation)
says for each frame where it lies; any other multi-frame file is a cine or a stack of pages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom.dataset import Dataset

from medsam2_ft.errors import UserError
from medsam2_ft.io.dicom import pet
from medsam2_ft.io.dicom.files import (
    AnyTag,
    damaged_as_user_error,
    integer,
    items,
    number,
    numbers,
    open_dataset,
    text,
)
from medsam2_ft.io.dicom.modality import kind_of
from medsam2_ft.io.npz_zip import check_size

Numbers = tuple[float, ...]
_GRID_TAGS: tuple[AnyTag, ...] = (
    "SOPClassUID",
    "Modality",
    "ImageType",
    "InstanceNumber",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "SequenceOfUltrasoundRegions",
    "SliceThickness",
    "RescaleSlope",
    "RescaleIntercept",
    "FrameIncrementPointer",
    "FrameTime",
    "CineRate",
    "TotalPixelMatrixColumns",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
# What may tell two slices at one place apart; none of it names a patient or a date.
_TRAITS = (
    "AcquisitionNumber",
    "EchoNumbers",
    "EchoTime",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "DiffusionBValue",
    "FlipAngle",
    "InversionTime",
    "StackID",
    "ImageType",
    "ConvolutionKernel",
)
_IMAGE_TAGS: tuple[AnyTag, ...] = (*_GRID_TAGS, *_TRAITS, *pet.TAGS)
_CINE_MODALITIES = ("US", "IVUS", "ES", "XA", "RF", "XC", "DMS", "GM")
_TIME_POINTERS = ("(0018,1063)", "(0018,1065)")  # FrameTime, FrameTimeVector
_CENTIMETRES = 3
_FEW_FRAMES = 1 << 12


@dataclass(frozen=True)
class Plane:
    """One slice of a volume, or one frame of a cine.

    Attributes:
        path: The file.
        frame: Index of the frame in the file, from 0.
        shape: (rows, columns, samples); 3 samples are colour, 1 is gray or a palette.
        position_mm: LPS position (x, y, z) of the centre of the first pixel.
        orientation: Direction cosines of a row (along x), then of a column (along y).
        spacing_yx_mm: Distance between rows, then between columns.
        thickness_mm: Thickness of the slice; what a single slice is taken to be apart by.
        slope: Rescale slope.
        intercept: Rescale intercept.
        traits: Name and value of what may tell it from another plane at the same place.
    """

    path: Path
    frame: int
    shape: tuple[int, int, int]
    position_mm: Numbers | None
    orientation: Numbers | None
    spacing_yx_mm: Numbers | None
    thickness_mm: float | None = None
    slope: float = 1.0
    intercept: float = 0.0
    traits: tuple[tuple[str, str], ...] = ()

    @property
    def is_placed(self) -> bool:
        """Whether the file says where the plane lies."""
        return self.position_mm is not None and self.orientation is not None


@dataclass(frozen=True)
class ImageHeader:
    """One image file without its pixels.

    Attributes:
        path: The file.
        code: DICOM's modality code.
        planes: Its frames in the order of the file.
        is_cine: Whether the frames follow each other in time.
        pet_facts: What the dose of a PET is computed from.
    """

    path: Path
    code: str
    planes: tuple[Plane, ...]
    is_cine: bool = False
    pet_facts: pet.PetFacts | None = field(default=None, repr=False)


def read_image_header(path: Path) -> ImageHeader:
    """Reads the header of an image.

    Raises:
        UserError: Damaged, no image, a tiled whole slide, or beyond the size limit.
    """
    dataset = open_dataset(path, _IMAGE_TAGS)
    with damaged_as_user_error(path, "header"):
        planes = tuple(planes_of(path, dataset, with_traits=True))
        code = text(dataset, "Modality")
        if kind_of(text(dataset, "SOPClassUID"), code, has_rows=True) != "image":
            raise UserError(
                f"{path}: is no image ({code[:16]}); give the image, and labels as labels"
            )
        return ImageHeader(
            path,
            code,
            planes,
            _is_cine(dataset, code, planes),
            pet.facts_of(dataset) if code == "PT" else None,
        )


def planes_of(path: Path, dataset: Dataset, with_traits: bool = False) -> Iterator[Plane]:
    """Yields the frames of a file in their order.

    Raises:
        UserError: No image, a tiled whole slide, or beyond the size limit.
        ValueError: A value that makes no sense; as much as ``damaged_as_user_error`` handles.
    """
    rows, columns = integer(dataset, "Rows", 0), integer(dataset, "Columns", 0)
    frames = integer(dataset, "NumberOfFrames", 1)
    # every frame takes a byte at least; looked at before room is made for what is declared
    if rows < 1 or columns < 1 or not 1 <= frames <= max(_FEW_FRAMES, path.stat().st_size):
        raise UserError(
            f"{path}: holds no image ({rows} rows, {columns} columns, {frames} frames); leave it "
            "out, or copy it again"
        )
    samples = integer(dataset, "SamplesPerPixel", 1)
    if samples not in (1, 3):
        raise UserError(f"{path}: has {samples} samples per pixel; convert it to gray or RGB")
    check_size(str(path), rows * columns * frames * samples)
    if frames > 1 and number(dataset, "TotalPixelMatrixColumns"):
        raise UserError(
            f"{path}: is a whole slide in {frames} tiles; export the region of interest as TIFF "
            "or PNG"
        )
    groups = items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = items(dataset, "SharedFunctionalGroupsSequence")[:1]
    if groups and len(groups) != frames:
        raise UserError(
            f"{path}: declares {frames} frames and describes {len(groups)}; the file is damaged: "
            "copy it again"
        )
    if not groups:
        only = _plane(path, 0, (rows, columns, samples), dataset, shared, with_traits)
        yield from (replace(only, frame=frame) for frame in range(frames))
        return
    for frame in range(frames):
        sources = (groups[frame], *shared)
        yield _plane(path, frame, (rows, columns, samples), dataset, sources, with_traits)


def _plane(
    path: Path,
    frame: int,
    shape: tuple[int, int, int],
    dataset: Dataset,
    groups: Sequence[Dataset],
    with_traits: bool,
) -> Plane:
    """Functional groups of the frame come first, then what all frames share, then the file."""
    measures = _group(groups, "PixelMeasuresSequence", dataset)
    values = _group(groups, "PixelValueTransformationSequence", dataset)
    spacing = numbers(measures, "PixelSpacing", 2) or _projected_spacing(dataset)
    if spacing is not None and min(spacing) <= 0:
        raise UserError(f"{path}: pixel spacing {spacing} is not positive; correct it")
    slope = number(values, "RescaleSlope")
    return Plane(
        path,
        frame,
        shape,
        numbers(_group(groups, "PlanePositionSequence", dataset), "ImagePositionPatient", 3),
        numbers(_group(groups, "PlaneOrientationSequence", dataset), "ImageOrientationPatient", 6),
        spacing,
        abs(number(measures, "SliceThickness") or 0.0) or None,
        1.0 if slope is None or slope == 0 else slope,
        number(values, "RescaleIntercept") or 0.0,
        tuple(_traits(dataset, groups)) if with_traits else (),
    )


def _group(groups: Sequence[Dataset], keyword: str, otherwise: Dataset) -> Dataset:
    for group in groups:
        found = items(group, keyword)
        if found:
            return found[0]
    return otherwise


def _traits(dataset: Dataset, groups: Sequence[Dataset]) -> Iterator[tuple[str, str]]:
    nested = [item for group in groups for element in group for item in _items_of(element)]
    for keyword in _TRAITS:
        for source in (*nested, dataset):
            value = text(source, keyword)
            if value:
                yield keyword, value
                break


def _items_of(element: object) -> Sequence[Dataset]:
    value = getattr(element, "value", None)
    return tuple(value) if getattr(element, "VR", "") == "SQ" and value else ()


def _projected_spacing(dataset: Dataset) -> Numbers | None:
    """Pixel size where there is no ``PixelSpacing``: at the detector, the scanner, the probe."""
    for keyword in ("ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        found = numbers(dataset, keyword, 2)
        if found is not None:
            return found
    regions = items(dataset, "SequenceOfUltrasoundRegions")
    sizes = {
        (number(region, "PhysicalDeltaY"), number(region, "PhysicalDeltaX"))
        for region in regions
        if integer(region, "PhysicalUnitsXDirection", 0) == _CENTIMETRES
        and integer(region, "PhysicalUnitsYDirection", 0) == _CENTIMETRES
    }
    if len(regions) != 1 or len(sizes) != 1:
        return None
    y, x = sizes.pop()
    return None if not y or not x else (abs(y) * 10.0, abs(x) * 10.0)


def _is_cine(dataset: Dataset, code: str, planes: Sequence[Plane]) -> bool:
    if len(planes) == 1 or any(plane.is_placed for plane in planes):
        return False
    has_rate = any(number(dataset, key) for key in ("FrameTime", "CineRate"))
    pointer = text(dataset, "FrameIncrementPointer")
    return code in _CINE_MODALITIES or has_rate or any(tag in pointer for tag in _TIME_POINTERS)
