"""The label-balanced mean: what a head's activation is when the label is unknown (the paper's mean ablation)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctsft.discovery.totals import record
from ctsft.memory import with_less
from ctsft.models.load import Loaded
from ctsft.tasks.prompts import Encoded, by_length, pad_left

MIN_ROWS = 6


@dataclass(frozen=True)
class LabelBalancedMean:
    """aligned [layers, offsets, heads * head_dim], pooled [layers, heads * head_dim].

    Offset 0 is the label position, counted backwards. Beyond the last offset, the pooled mean holds.
    """

    aligned: Tensor
    pooled: Tensor

    def at(self, layer: int, width: int) -> Tensor:
        """mu for a left-padded batch `width` tokens wide: [width, heads * head_dim], last row the label position."""
        known = self.aligned[layer][:width].flip(0)
        rest = self.pooled[layer].expand(width - known.shape[0], -1)
        return torch.cat([rest, known])


def label_balanced_mean(
    loaded: Loaded, rows: Encoded, n_labels: int, batch_size: int, aligned: bool = True
) -> LabelBalancedMean:
    """mu_s = mean over labels of the mean over that label's rows of z_s, for every head and offset.

    An offset seen in fewer than MIN_ROWS rows, or not in every label, takes the mean over all real positions (also
    balanced over the labels). Pads never enter. With aligned=False every offset takes that pooled mean. Where memory
    runs out for `batch_size` rows at a time, fewer are taken; CellFailed where it does for one.
    """
    return with_less(
        lambda size: _label_balanced_mean(loaded, rows, n_labels, size, aligned), batch_size, "read one row of the mean"
    )


def _label_balanced_mean(
    loaded: Loaded, rows: Encoded, n_labels: int, batch_size: int, aligned: bool
) -> LabelBalancedMean:
    width = max(len(prompt) for prompt in rows.prompts)
    n_layers = len(loaded.anatomy.layers)
    size = loaded.anatomy.heads * loaded.anatomy.head_dim
    device = next(loaded.model.parameters()).device
    # Sums in double precision: the mean must not depend on the order or size of the batches.
    sums = torch.zeros(n_labels, n_layers, width, size, dtype=torch.float64, device=device)
    seen = torch.zeros(n_labels, width, dtype=torch.float64, device=device)
    labels = torch.tensor(rows.labels, device=device)
    for group in by_length(rows.prompts, batch_size):
        batch = pad_left([rows.prompts[i] for i in group], loaded.layout, device)
        totals = record(loaded, batch, only_z=True)
        mask = batch["attention_mask"].flip(1).double()
        span = mask.shape[1]
        for label in range(n_labels):
            weight = mask * (labels[group] == label).double()[:, None]
            seen[label, :span] += weight.sum(0)
            for number, layer in enumerate(totals.layers):
                sums[label, number, :span] += torch.einsum("btd,bt->td", layer.z.flip(1).double(), weight)
    pooled = (sums.sum(2) / seen.sum(1)[:, None, None]).mean(0)
    enough = (seen.sum(0) >= MIN_ROWS) & (seen > 0).all(0)
    per_offset = (sums / seen.clamp(min=1)[:, None, :, None]).mean(0)
    chosen = torch.where(enough[None, :, None], per_offset, pooled[:, None]) if aligned else pooled[:, None]
    return LabelBalancedMean(chosen.float(), pooled.float())
