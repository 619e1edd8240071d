"""What passes between SAM2's encoder, decoder and memory: plain containers of tensors."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Encoding:
    """Image features of ``b`` slices, before any memory or no-memory embedding is added.

    Attributes:
        levels: Features at strides 4, 8 and 16 with 32, 64 and 256 channels.
    """

    levels: tuple[
        Float[Tensor, "b c4 h4 w4"], Float[Tensor, "b c8 h8 w8"], Float[Tensor, "b c16 h16 w16"]
    ]

    def select(self, image_index: Int[Tensor, " n"]) -> "Encoding":
        """Returns the features of the given slices, one row per index, repeats allowed."""
        # in the memory layout of the encoder: indexing the levels themselves would change it
        fine, middle, coarse = (
            level.permute(0, 2, 3, 1)[image_index].permute(0, 3, 1, 2) for level in self.levels
        )
        return Encoding((fine, middle, coarse))

    def detach(self) -> "Encoding":
        """Returns the same features outside the autograd graph."""
        fine, middle, coarse = (level.detach() for level in self.levels)
        return Encoding((fine, middle, coarse))

    @property
    def nbytes(self) -> int:
        """Memory that the features take, in bytes."""
        return sum(level.nbytes for level in self.levels)


@dataclass(frozen=True, eq=False)
class PromptTensors:
    """Prompts of ``n`` objects in one frame, on the model's device.

    A box is two points, its corners, with labels 2 and 3, before any others. Either points or
    masks are given.

    Attributes:
        points_xy: In pixels of the model's input.
        point_labels: int32: 1 object, 0 background, 2 and 3 the corners of a box.
        masks: Masks of the object, 0 or 1, which are taken as they are.
        previous_logits: Masks that the points correct, at a quarter of the input size.
    """

    points_xy: Float[Tensor, "n p 2"] | None = None
    point_labels: Int[Tensor, "n p"] | None = None
    masks: Float[Tensor, "n 1 s s"] | None = None
    previous_logits: Float[Tensor, "n 1 l l"] | None = None

    def __len__(self) -> int:
        """Number of objects."""
        given = self.points_xy if self.masks is None else self.masks
        return 0 if given is None else len(given)


@dataclass(frozen=True)
class Decoded:
    """Masks of ``n`` prompts, ``m`` of them per prompt (1, or 4 for all tokens).

    Attributes:
        mask_logits: Logits at a quarter of the input size.
        iou: Predicted IoU of each mask, 0-1.
        object_score_logits: Logit of "the object is in this slice".
    """

    mask_logits: Float[Tensor, "n m l l"]
    iou: Float[Tensor, "n m"]
    object_score_logits: Float[Tensor, "n 1"]


@dataclass(frozen=True)
class Tracked:
    """One frame of memory propagation for ``n`` objects.

    Attributes:
        mask_logits: Logits at a quarter of the input size; -1024 everywhere where the model says
            that the object is absent, as in Meta's video predictor.
        memory_features: Spatial memory in bfloat16 (Meta stores it so).
        memory_position: Position encoding of ``memory_features``, the same for every frame.
        pointer: Object pointers.
        object_score_logits: Logit of "the object is in this frame".
    """

    mask_logits: Float[Tensor, "n 1 l l"]
    memory_features: Float[Tensor, "n c h w"]
    memory_position: Float[Tensor, "1 c h w"]
    pointer: Float[Tensor, "n d"]
    object_score_logits: Float[Tensor, "n 1"]
