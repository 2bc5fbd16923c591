"""Probability ratios of decisions under two policies, and metrics of the distance between the two policies: pure functions of tensors.

Shapes: B decisions, C actions in a chunk, A action dimensions, L terms of a decision. A ratio can be formed for the whole chunk (L = 1), for each action
(L = C) or for each dimension of each action (L = C * A).

Invariant: the weight of a decision does not depend on the level. Each executed term weighs 1 / L. Where an environment uses fewer than A dimensions, L counts
only the dimensions that it uses.
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
"""Log-ratios are clamped to +-20. Such ratios are clipped anyway, and an infinite ratio would make the gradient of a clipped term 0 * inf = nan."""


def executed_actions(executed: Tensor, dimensions: Tensor, shape: Sequence[int]) -> Tensor:
    """Which actions and dimensions reached the environment: bool [B, C, A].

    executed: the number of executed actions of each chunk, [B]. dimensions: the number of dimensions that the environment uses, [B]. shape: (C, A).
    """
    actions, sizes = (torch.arange(size, device=executed.device) for size in shape)
    return (actions < executed[:, None])[:, :, None] & (sizes < dimensions[:, None])[:, None, :]


@dataclass(frozen=True, slots=True)
class Ratios:
    """Ratios pi(a|s) / pi_anchor(a|s). log: the log-ratio, [B, L], 0 where nothing was executed. weight: the weight of each term in a loss, [B, L]."""

    log: Tensor
    weight: Tensor

    @property
    def value(self) -> Tensor:
        return self.log.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()

    @property
    def executed(self) -> Tensor:
        """The log-ratios [N] of the executed terms, float64, without gradient. It waits for the device, because N is known only there."""
        return self.log.detach()[self.weight > 0].double()

    def detached(self) -> Ratios:
        """The same ratios without gradient."""
        return Ratios(self.log.detach(), self.weight)


def ratios(logprob: Tensor, anchor: Tensor, executed: Tensor, level: Level) -> Ratios:
    """The ratios at one level, over executed actions only.

    logprob, anchor: the log-probs under pi and under pi_anchor, [B, C, A]. executed: bool [B, C, A].
    """
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
    """The estimator (r - 1) - log r of KL(anchor || policy) from samples of the anchor. It is never negative and unbiased. log: log r.

    Schulman, "Approximating KL divergence", joschu.net/blog/kl-approx.html (2020).
    """
    return torch.expm1(log.clamp(max=LARGEST_LOG_RATIO)) - log


def ratio_metrics(log: Tensor, clip_low: float, clip_high: float) -> dict[str, float]:
    """Metrics of the distance between a policy and its anchor. log: their log-ratios [N]. Empty where N = 0.

    The metrics are the mean, the maximum and the 5 %, 50 % and 95 % quantiles of the ratio (with linear interpolation), the share of ratios outside the clip
    range, and KL(anchor || policy) by k3.
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


def staleness_metrics(log: Tensor) -> dict[str, float]:
    """Metrics of the distance between the policy at the start of an update and those that made its decisions. log: log(pi_proximal / pi_behaviour), [N].

    effective_sample_size: (sum w)^2 / (N sum w^2), as a share of N. It is 1 where nothing is stale.
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


def mismatch_metrics(log: Tensor) -> dict[str, float]:
    """How far the sampler is from the trainer, for the same decisions and the same weights. log: log(pi_trainer / pi_sampler), [N]. Empty where N = 0.

    sampler_mismatch_mean and sampler_mismatch_p99: the mean and the 99 % quantile of |ratio - 1|. (The mean of the ratio itself says little: over decisions of
    the sampler it is 1 whatever the mismatch.) sampler_mismatch_kl: KL(sampler || trainer) by k3.
    """
    if not len(log):
        return {}
    distance = torch.expm1(log.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)).abs()
    return {
        "sampler_mismatch_mean": distance.mean().item(),
        "sampler_mismatch_p99": float(np.quantile(distance.cpu().numpy(), 0.99)),
        "sampler_mismatch_kl": k3(log).mean().item(),
    }
