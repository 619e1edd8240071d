"""Which way the slices of a volume lie: axes are permuted and flipped, nothing is resampled."""

from typing import Literal

Slices = Literal["stored", "axial", "coronal", "sagittal", "thickest"]
