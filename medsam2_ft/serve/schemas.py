"""Bodies of requests. What they mean is in docs/protocol.md."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from medsam2_ft.io.checks import MAX_LABEL_ID

Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]
Index = Annotated[int, Field(ge=0, le=1 << 31)]
AxisNumber = Annotated[int, Field(ge=0, le=2)]
ObjectId = Annotated[int, Field(ge=1, le=MAX_LABEL_ID)]
Side = Annotated[int, Field(ge=1, le=1 << 24)]
Box = Annotated[list[Finite], Field(min_length=4, max_length=4)]
Point = Annotated[list[Finite], Field(min_length=2, max_length=2)]
Row = Annotated[list[Finite], Field(min_length=4, max_length=4)]
Strategy = Literal["box", "memory"]
Modality = Literal[
    "CT", "MR", "PET", "ultrasound", "xray", "dermoscopy", "endoscopy", "fundus", "mammography",
    "OCT", "microscopy",
]  # fmt: skip
Dtype = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


class Body(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NewSession(Body):
    """POST /sessions."""

    kind: Literal["image", "volume", "video"] = "volume"
    model: Annotated[str, Field(max_length=200)] | None = None
    shape: Annotated[list[Side], Field(min_length=3, max_length=4)] | None = None
    dtype: Dtype | None = None
    window: Annotated[list[Finite], Field(min_length=2, max_length=2)] | None = None
    modality: Modality | None = None
    strategy: Strategy | None = None
    ijk_to_lps: Annotated[list[Row], Field(min_length=4, max_length=4)] | None = None


class SliceChoice(Body):
    """POST /sessions/{id}/view."""

    axis: AxisNumber = 0
    index: Index


class MaskBits(Body):
    """A mask as wire.mask_to_json gives it."""

    shape: Annotated[list[Index], Field(min_length=2, max_length=2)]
    bits: str


class SliceSaid(Body):
    """What is said about an object on one slice."""

    index: Index
    box: Box | None = None
    points: Annotated[list[Point], Field(max_length=1000)] = []
    labels: Annotated[list[Literal[0, 1]], Field(max_length=1000)] = []
    mask: MaskBits | None = None


class NewPrompt(SliceSaid):
    """POST /sessions/{id}/prompts."""

    object_id: ObjectId
    axis: AxisNumber = 0


class RegionBits(Body):
    """A changed region as wire.region_to_json gives it."""

    object_id: ObjectId
    offset: Annotated[list[Index], Field(min_length=3, max_length=3)]
    shape: Annotated[list[Side], Field(min_length=3, max_length=3)]
    bits: str


class Edits(Body):
    """POST /sessions/{id}/edits."""

    regions: Annotated[list[RegionBits], Field(min_length=1, max_length=1000)]


class Propagation(Body):
    """POST /sessions/{id}/propagate."""

    objects: Annotated[list[ObjectId], Field(min_length=1, max_length=1000)] | None = None
    axis: AxisNumber = 0
    start: Index | None = None
    range: Annotated[list[Index], Field(min_length=2, max_length=2)] | None = None
    direction: Literal["forward", "backward", "both"] = "both"
    strategy: Strategy | None = None


class Accept(Body):
    """POST /sessions/{id}/accept."""

    names: dict[ObjectId, Annotated[str, Field(min_length=1, max_length=100)]] = {}


class StatelessObject(Body):
    """One object of POST /segment/volume."""

    object_id: ObjectId
    slices: Annotated[list[SliceSaid], Field(min_length=1, max_length=1000)]
    range: Annotated[list[Index], Field(min_length=2, max_length=2)] | None = None


class StatelessPrompts(Body):
    """The field ``prompts`` of POST /segment/volume."""

    model: Annotated[str, Field(max_length=200)] | None = None
    axis: AxisNumber = 0
    strategy: Strategy | None = None
    window: Annotated[list[Finite], Field(min_length=2, max_length=2)] | None = None
    modality: Modality | None = None
    objects: Annotated[list[StatelessObject], Field(min_length=1, max_length=64)]
