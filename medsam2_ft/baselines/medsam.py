"""MedSAM as its authors' ``MedSAM_Inference.py`` runs it.

https://github.com/bowang-lab/MedSAM: the slice is stretched to 1024 x 1024 and scaled to its own
range; the mask is where the interpolated probability exceeds a half.
"""

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from medsam2_ft.baselines.core import decode_boxes
from medsam2_ft.baselines.spline_resize import spline_resize
from medsam2_ft.prompts import scale_boxes
from medsam2_ft.slice_model import SliceModel

# Keeps the logits of certain pixels finite; a half stays where it is.
_PROBABILITY_MARGIN = 1e-6


class MedSamModel(SliceModel):
    """MedSAM: the network of SAM ViT-B with other weights and another treatment of images."""

    def encode_frame(
        self, frame: UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]
    ) -> Float[Tensor, "1 c f f"]:
        """Stretches the slice to the square input, scales its values to 0-1, encodes it.

        Args:
            frame: Gray or colour, 0-255. Gray becomes three equal channels; an image of one value
                becomes 0.
        """
        channels = frame[None] if frame.ndim == 2 else np.moveaxis(frame, 2, 0)
        image = spline_resize(channels, self.image_size, self.device).float()
        low, high = image.min(), image.max()
        unit = (image - low) / (high - low).clamp(min=1e-8)
        features: Tensor = self.core.image_encoder(unit.expand(3, -1, -1)[None])
        return features

    def box_logits(
        self,
        features: Float[Tensor, "1 c f f"],
        boxes_xyxy: Float32[np.ndarray, "n 4"],
        hw: tuple[int, int],
    ) -> Float[Tensor, "n {hw[0]} {hw[1]}"]:
        """Segments one object per box; probabilities, not logits, are interpolated.

        Args:
            features: Of one slice.
            boxes_xyxy: Inclusive boxes in pixels of the slice.
            hw: Height and width of the slice.

        Returns:
            Logits of the interpolated probabilities.
        """
        side = (self.image_size, self.image_size)
        boxes = torch.from_numpy(scale_boxes(boxes_xyxy, hw, side)).to(self.device)
        probability = torch.sigmoid(decode_boxes(self.core, features, boxes))
        native = interpolate(probability, hw, mode="bilinear", align_corners=False)[:, 0]
        return torch.logit(native, eps=_PROBABILITY_MARGIN)
