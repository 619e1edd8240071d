"""Means over the prompts of an evaluation, overall and by modality, over all processes."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric

from medsam2_ft.data.index import MODALITY_NAMES, UNKNOWN_MODALITY


class ModalityMeans(Metric):
    """Sums and counts by modality; every process holds a place for every modality.

    So processes agree on what there is to log, whichever of them has met which modality.

    Args:
        overall: Names of the quantities whose mean over all prompts is wanted.
        by_modality: Those of them that are wanted by modality, too.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, overall: tuple[str, ...], by_modality: tuple[str, ...]) -> None:
        super().__init__()
        self.overall = overall
        self.by_modality = by_modality
        places = torch.zeros(len(MODALITY_NAMES), len(overall))
        self.add_state("sums", places, dist_reduce_fx="sum")
        self.add_state("counts", places.clone(), dist_reduce_fx="sum")

    def update(self, modality: Int64[Tensor, " n"], values: Mapping[str, Tensor]) -> None:
        """Adds prompts; none at all is fine.

        Args:
            modality: Code of each prompt, see ``data.index.MODALITY_NAMES``.
            values: ``(n,)`` values of every quantity. NaN counts as not there where the quantity
                is a score that may be undefined (``dsc``), and spoils the mean of a loss.
        """
        table: Float[Tensor, "n q"] = torch.stack([values[name] for name in self.overall], dim=1)
        table = table.detach().float()
        undefined = torch.tensor([name == "dsc" for name in self.overall], device=table.device)
        counted = ~(table.isnan() & undefined)
        of_modality = torch.nn.functional.one_hot(modality, len(MODALITY_NAMES)).bool().T
        # Not scattered additions: the same sum every time on a GPU.
        own = of_modality[:, :, None] & counted
        # Not in place either: Lightning validates now in inference mode, now without.
        self.sums = self.sums + torch.where(own, table, 0.0).sum(dim=1)
        self.counts = self.counts + own.sum(dim=1)

    def compute(self) -> dict[str, float]:
        """Returns ``<quantity>`` and ``<modality>/<quantity>`` of all processes.

        Modalities without prompts are left out, and so is ``unknown`` where it is the only one.
        Means of nothing are NaN.
        """
        means = {
            name: _ratio(self.sums[:, column].sum(), self.counts[:, column].sum())
            for column, name in enumerate(self.overall)
        }
        met = [i for i in range(len(MODALITY_NAMES)) if self.counts[i].any()]
        if [MODALITY_NAMES[i] for i in met] == [UNKNOWN_MODALITY]:
            return means
        for i in met:
            for name in self.by_modality:
                column = self.overall.index(name)
                mean = _ratio(self.sums[i, column], self.counts[i, column])
                means[f"{MODALITY_NAMES[i]}/{name}"] = mean
        return means


def _ratio(total: Tensor, count: Tensor) -> float:
    return float(total / count) if count > 0 else math.nan
