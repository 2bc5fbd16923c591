"""Probability ratios of decisions under two policies, and what they say about how far apart the two are: pure functions of tensors.

Shapes: B decisions, C actions a chunk, A action dimensions; L terms of a decision: 1 where ratios are formed for the whole chunk, C for each action, C * A for
each dimension of each action. A decision weighs the same at every level: each of its executed terms weighs 1 / L, where an environment that takes fewer
dimensions than there are has so many terms fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Level = Literal["chunk", "action", "dimension"]

LARGEST_LOG_RATIO = 20.0
"""Ratios beyond e^20 are cut there: they are clipped anyway, and an infinite ratio makes the gradient of a clipped term 0 * inf = nan."""


def executed_actions(executed: Tensor, dimensions: Tensor, shape: Sequence[int]) -> Tensor:
    """What of each chunk reached the environment: bool [B, C, A], from how many actions were executed [B], of how many dimensions [B]. shape: (C, A)."""
    actions, sizes = (torch.arange(size, device=executed.device) for size in shape)
    return (actions < executed[:, None])[:, :, None] & (sizes < dimensions[:, None])[:, None, :]


@dataclass(frozen=True, slots=True)
class Ratios:
    """Ratios pi(a|s) / pi_anchor(a|s). log: [B, L], 0 where nothing was executed. weight: [B, L], what each counts in a loss."""

    log: Tensor
    weight: Tensor

    @property
    def value(self) -> Tensor:
        return self.log.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()

    @property
    def executed(self) -> Tensor:
        """The logarithms [N] of executed terms, as float64 and without gradient."""
        return self.log.detach()[self.weight > 0].double()


def ratios(logprob: Tensor, anchor: Tensor, executed: Tensor, level: Level) -> Ratios:
    """Ratios at one level, over executed actions only. logprob, anchor: [B, C, A], under the two policies. executed: bool [B, C, A]."""
    difference = torch.where(executed, logprob - anchor, 0.0)
    match level:
        case "chunk":
            return Ratios(difference.sum((1, 2))[:, None], executed.flatten(1).any(1, keepdim=True).to(logprob))
        case "action":
            return Ratios(difference.sum(2), executed.any(2).to(logprob) / executed.shape[1])
        case "dimension":
            dimensions = executed.any(1).sum(1).clamp(min=1)[:, None]
            return Ratios(difference.flatten(1), executed.flatten(1).to(logprob) / (executed.shape[1] * dimensions))


def k3(log: Tensor) -> Tensor:
    """The estimator (r - 1) - log r of KL(anchor || policy), from samples of the anchor; never negative, without bias.

    Schulman, "Approximating KL divergence", joschu.net/blog/kl-approx.html (2020).
    """
    return torch.expm1(log.clamp(max=LARGEST_LOG_RATIO)) - log


def describe(log: Tensor, clip_low: float, clip_high: float) -> dict[str, float]:
    """How far a policy has gone from its anchor, from the logarithms [N] of their ratios; empty where there are none.

    Mean, largest and 5 %, 50 % and 95 % quantiles of the ratio (linear between neighbours), the share outside the clip, and KL(anchor || policy) by k3.
    """
    if not len(log):
        return {}
    ratio = log.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    low, middle, high = np.quantile(ratio.cpu().numpy(), [0.05, 0.5, 0.95])
    outside = (ratio < 1 - clip_low) | (ratio > 1 + clip_high)
    return {
        "approx_kl": k3(log).mean().item(),
        "clip_share": outside.double().mean().item(),
        "ratio_mean": ratio.mean().item(),
        "ratio_max": ratio.max().item(),
        "ratio_p05": float(low),
        "ratio_p50": float(middle),
        "ratio_p95": float(high),
    }


def describe_staleness(log: Tensor) -> dict[str, float]:
    """How far the policy that an update began with is from those that made its decisions, from log(pi_proximal / pi_behaviour) [N].

    effective_sample_size: (sum w)^2 / (N sum w^2), the share of the decisions that would weigh as much, were all of them fresh: 1 where nothing is stale.
    Kong, "A note on importance sampling using standardized weights" (1992).
    """
    if not len(log):
        return {}
    ratio = log.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    low, high = np.quantile(ratio.cpu().numpy(), [0.05, 0.95])
    return {
        "effective_sample_size": (ratio.sum().square() / ratio.square().sum() / len(ratio)).item(),
        "staleness_kl": k3(log).mean().item(),
        "staleness_ratio_mean": ratio.mean().item(),
        "staleness_ratio_p05": float(low),
        "staleness_ratio_p95": float(high),
    }
