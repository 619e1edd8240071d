"""Turns medical images and labels of any format into npz cases."""

from medsam2_ft.prepare.command import PrepareSummary, prepare
from medsam2_ft.prepare.pairing import NothingFoundError

__all__ = ["NothingFoundError", "PrepareSummary", "prepare"]
