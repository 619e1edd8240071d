"""``medsam2-ft segment``: images and prompts in, segmentations in the image's own geometry out."""
