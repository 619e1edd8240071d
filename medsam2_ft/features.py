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
        fine, middle, coarse = (level[image_index] for level in self.levels)
        return Encoding((fine, middle, coarse))

    def detach(self) -> "Encoding":
        """Returns the same features outside the autograd graph."""
        fine, middle, coarse = (level.detach() for level in self.levels)
        return Encoding((fine, middle, coarse))

    @property
    def nbytes(self) -> int:
        """Memory that the features take, in bytes."""
        return sum(level.nbytes for level in self.levels)


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
