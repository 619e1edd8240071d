"""What the one-shot loop needs of a model that segments single slices from boxes."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn


class SliceModel(nn.Module, ABC):
    """A model that turns a slice into features, and features and boxes into masks.

    ``propagate.propagate_boxes`` follows objects through volumes with it. How an image is prepared
    and how masks come back to its grid is each model's own affair.

    Args:
        core: The network in evaluation mode, all of it on one device.
        name: What to call the model in tables.
        image_size: Side of the network's square input in pixels.
        sha256: Of the weights' file; None for random weights.
    """

    core: Any

    def __init__(
        self, core: nn.Module, name: str, image_size: int, sha256: str | None = None
    ) -> None:
        super().__init__()
        self.core = core
        self.name = name
        self.image_size = image_size
        self.sha256 = sha256

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.core.parameters()).device  # type: ignore[no-any-return]

    @abstractmethod
    def encode_frame(
        self, frame: UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]
    ) -> Float[Tensor, "1 c f f"]:
        """Prepares one slice as the model's authors do and returns its features.

        Args:
            frame: Gray or colour, 0-255.
        """

    @abstractmethod
    def box_logits(
        self,
        features: Float[Tensor, "1 c f f"],
        boxes_xyxy: Float32[np.ndarray, "n 4"],
        hw: tuple[int, int],
    ) -> Float[Tensor, "n {hw[0]} {hw[1]}"]:
        """Segments one object per box.

        Args:
            features: Of one slice.
            boxes_xyxy: Inclusive boxes in pixels of the slice, at least one.
            hw: Height and width of the slice.

        Returns:
            float32, greater than 0 where the model's own mask is.
        """
