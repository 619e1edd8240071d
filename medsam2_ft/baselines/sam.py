"""SAM as its ``SamPredictor`` runs it: longest side to 1024, the rest padded."""

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from medsam2_ft.baselines.core import decode_boxes
from medsam2_ft.errors import UserError
from medsam2_ft.slice_model import SliceModel


class SamModel(SliceModel):
    """SAM, with the transforms of its own package."""

    def encode_frame(
        self, frame: UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]
    ) -> Float[Tensor, "1 c f f"]:
        """Resizes the longest side to the input, normalises, pads below and at the right.

        Args:
            frame: Gray or colour, 0-255. Gray becomes three equal channels.

        Raises:
            UserError: The slice is so narrow that nothing of its width would be left.
        """
        from segment_anything.utils.transforms import ResizeLongestSide

        if min(self._resized(frame.shape[:2])) < 1:
            raise UserError(
                f"{self.name}: a slice of {frame.shape[1]} x {frame.shape[0]} pixels is too narrow "
                f"to be resized to {self.image_size}; crop or resample it."
            )
        rgb = frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2)
        resized = ResizeLongestSide(self.image_size).apply_image(rgb)
        image = torch.from_numpy(resized).to(self.device).permute(2, 0, 1)[None].contiguous()
        features: Tensor = self.core.image_encoder(self.core.preprocess(image))
        return features

    def box_logits(
        self,
        features: Float[Tensor, "1 c f f"],
        boxes_xyxy: Float32[np.ndarray, "n 4"],
        hw: tuple[int, int],
    ) -> Float[Tensor, "n {hw[0]} {hw[1]}"]:
        """Segments one object per box; removes the padding from the logits, then resizes them.

        Args:
            features: Of one slice.
            boxes_xyxy: Inclusive boxes in pixels of the slice.
            hw: Height and width of the slice.
        """
        from segment_anything.utils.transforms import ResizeLongestSide

        scaled = ResizeLongestSide(self.image_size).apply_boxes(boxes_xyxy, hw)
        boxes = torch.from_numpy(scaled.astype(np.float32)).to(self.device)
        logits = decode_boxes(self.core, features, boxes)
        native: Tensor = self.core.postprocess_masks(logits, self._resized(hw), hw)
        return native[:, 0]

    def _resized(self, hw: tuple[int, ...]) -> tuple[int, int]:
        """Height and width without the padding."""
        from segment_anything.utils.transforms import ResizeLongestSide

        height, width = ResizeLongestSide.get_preprocess_shape(hw[0], hw[1], self.image_size)
        return height, width
