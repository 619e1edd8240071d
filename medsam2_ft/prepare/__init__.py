"""Turns medical images and labels of any format into npz cases."""

from medsam2_ft.prepare.command import PrepareSummary, prepare, prepare_inputs
from medsam2_ft.prepare.inputs import Input
from medsam2_ft.prepare.pairing import NothingFoundError

__all__ = ["Input", "NothingFoundError", "PrepareSummary", "prepare", "prepare_inputs"]
