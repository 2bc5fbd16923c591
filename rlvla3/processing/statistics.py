"""Statistics of demonstrations, for a policy that has none: what cloning scales states and actions with."""

from __future__ import annotations

import torch
from torch import Tensor

from rlvla3.processing.specification import Normalisation

LEAST_WIDTH = 1e-3
"""The least deviation, or range, of a dimension. One that never changes in the demonstrations would be divided by 0."""

COMPUTED = "the demonstrations of clone"
"""The source of such statistics."""


def computed(numbers: Tensor, like: Normalisation, *, quantiles: bool) -> Normalisation:
    """The statistics of numbers [N, D], by the method of `like` and for its dimensions.

    quantiles: the bounds are the 1st and the 99th percentile, and not minimum and maximum, in dimensions where the two percentiles differ.
    """
    known = numbers.double().flatten(0, -2)[:, : like.dimensions]
    if like.method == "mean_std":
        deviation = known.std(0, correction=0).clamp(min=LEAST_WIDTH)
        return like.model_copy(update={"source": COMPUTED, "mean": known.mean(0).tolist(), "std": deviation.tolist()})
    low, high = known.amin(0), known.amax(0)
    if quantiles:
        inner_low, inner_high = (_quantile(known, share) for share in (0.01, 0.99))
        rare = inner_high - inner_low < LEAST_WIDTH  # a gripper that moves in less than 1 % of the steps: minimum and maximum keep its targets small
        low, high = torch.where(rare, low, inner_low), torch.where(rare, high, inner_high)
    missing = (LEAST_WIDTH - (high - low)).clamp(min=0) / 2
    return like.model_copy(update={"source": COMPUTED, "low": (low - missing).tolist(), "high": (high + missing).tolist()})


def _quantile(numbers: Tensor, share: float) -> Tensor:
    """The quantile of each dimension [D], by linear interpolation. (torch.quantile takes 16 million numbers at most.)"""
    ordered = numbers.sort(0).values
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], place - below)
