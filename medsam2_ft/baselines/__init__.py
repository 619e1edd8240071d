"""SAM and MedSAM, to compare with, as their authors run them.

Only this package imports ``segment_anything`` (extra ``baselines``). ``load`` has the entry point,
``catalogue`` the released files.
"""

from medsam2_ft.baselines.catalogue import BASELINES, Baseline
from medsam2_ft.baselines.load import is_baseline, load_baseline

__all__ = ["BASELINES", "Baseline", "is_baseline", "load_baseline"]
