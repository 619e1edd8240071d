"""Turns folders of medical images and labels into npz cases."""

from medsam2_ft.prepare.command import PrepareSummary, prepare

__all__ = ["PrepareSummary", "prepare"]
