"""Fine-tune SAM2 on medical images and put the result to use."""

__version__ = "0.1.0"
