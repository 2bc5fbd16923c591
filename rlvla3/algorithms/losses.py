"""From log-probs and advantages to losses: pure functions of tensors.

Every loss is a SUM over decisions, never a mean: the learner divides once, by the number of decisions of the whole optimizer step, so a gradient
does not depend on how the step was cut into micro-batches (law 3). Metrics are sums and counts for the same reason.

Shapes: B decisions, C actions a chunk, A action dimensions; L = C where probability ratios are formed for each action, L = 1 where for the whole chunk.
A decision weighs the same at both levels: each of its executed actions weighs 1 / C, or the chunk 1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

LARGEST_LOG_RATIO = 20.0
"""Ratios beyond e^20 are cut there: they are clipped anyway, and an infinite ratio makes the gradient of a clipped term 0 * inf = nan."""


def executed_actions(executed: Tensor, chunk: int) -> Tensor:
    """Which actions of each chunk were executed: bool [B, C], from their numbers [B]. The rest of a chunk never reached the environment."""
    return torch.arange(chunk, device=executed.device) < executed[:, None]


@dataclass(frozen=True, slots=True)
class Ratios:
    """Probability ratios pi(a|s) / pi_behaviour(a|s). log: [B, L], 0 where nothing was executed. weight: [B, L], what each counts in a loss."""

    log: Tensor
    weight: Tensor

    @property
    def value(self) -> Tensor:
        return self.log.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()


def ratios(logprob: Tensor, behaviour: Tensor, executed: Tensor, level: Literal["chunk", "action"]) -> Ratios:
    """Ratios at one level, over executed actions only.

    logprob, behaviour: [B, C, A], under the present weights and as recorded when acting. executed: bool [B, C].
    """
    difference = torch.where(executed[..., None], logprob - behaviour, 0.0).sum(-1)
    if level == "action":
        return Ratios(difference, executed.to(logprob.dtype) / executed.shape[1])
    return Ratios(difference.sum(-1, keepdim=True), executed.any(-1, keepdim=True).to(logprob.dtype))


def ppo_loss(ratios: Ratios, advantage: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None) -> Tensor:
    """The clipped surrogate, negated and summed: a scalar. advantage: [B].

        J = min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)        and, where A < 0,  J = max(J, dual_clip A)

    Schulman et al., "Proximal policy optimization algorithms", arXiv 1707.06347, equation 7. Two different clips: DAPO, arXiv 2503.14476, equation 10.
    Dual clip: Ye et al., "Mastering complex control in MOBA games", arXiv 1912.09729, equation 5.
    """
    ratio, advantage = ratios.value, advantage[:, None]
    objective = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    if dual_clip is not None:
        objective = torch.where(advantage < 0, torch.maximum(objective, dual_clip * advantage), objective)
    return -(objective * ratios.weight).sum()


def value_loss(value: Tensor, target: Tensor, behaviour: Tensor, clip: float | None = None) -> Tensor:
    """The squared error of values [B], summed: a scalar. behaviour: [B], the values recorded when acting.

        L = (V - target)^2        clipped:  max(L, (V_behaviour + clamp(V - V_behaviour, -clip, clip) - target)^2)

    The clipped form is PPO2's, from OpenAI baselines; Engstrom et al., arXiv 2005.12729, equation 2.
    """
    error = (value - target).square()
    if clip is not None:
        near = behaviour + (value - behaviour).clamp(-clip, clip)
        error = torch.maximum(error, (near - target).square())
    return error.sum()


def entropy_sum(entropy: Tensor, executed: Tensor) -> Tensor:
    """The entropy [B, C, A] of a decision per action of its chunk, over executed actions, summed: a scalar."""
    return torch.where(executed[..., None], entropy, 0.0).sum() / executed.shape[1]


@dataclass(frozen=True, slots=True)
class LossSums:
    """What the metrics of an epoch are made of: sums over its micro-batches, except `ratio_max`. Scalars, detached, on the learner's device.

    decisions; policy, value, entropy: loss sums. terms: ratios formed. kl, clipped, ratio: sums over the terms.
    """

    decisions: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    terms: Tensor
    kl: Tensor
    clipped: Tensor
    ratio: Tensor
    ratio_max: Tensor

    def __add__(self, other: LossSums) -> LossSums:
        sums = {name: getattr(self, name) + getattr(other, name) for name in (field.name for field in fields(self))}
        return LossSums(**sums | {"ratio_max": torch.maximum(self.ratio_max, other.ratio_max)})

    def metrics(self) -> dict[str, float]:
        """Means over decisions (losses) and over ratios (the rest)."""
        decisions, terms = self.decisions.clamp(min=1), self.terms.clamp(min=1)
        means = {"policy_loss": self.policy / decisions, "value_loss": self.value / decisions, "entropy": self.entropy / decisions}
        means |= {"approx_kl": self.kl / terms, "clip_share": self.clipped / terms, "ratio_mean": self.ratio / terms, "ratio_max": self.ratio_max}
        return {name: mean.item() for name, mean in means.items()}


@torch.no_grad()
def loss_sums(ratios: Ratios, policy: Tensor, value: Tensor, entropy: Tensor, clip_low: float, clip_high: float) -> LossSums:
    """The sums of one micro-batch. policy, value, entropy: its losses, as the functions above give them.

    kl sums the estimator k3 = (r - 1) - log r of KL(behaviour || present), never negative and without bias: Schulman, "Approximating KL divergence" (2020).
    """
    ratio, log, counts = ratios.value.double(), ratios.log.double(), ratios.weight > 0
    k3 = torch.expm1(log.clamp(max=LARGEST_LOG_RATIO)) - log
    outside = (ratio < 1 - clip_low) | (ratio > 1 + clip_high)
    return LossSums(
        decisions=counts.any(-1).sum().double(),
        policy=policy.double(),
        value=value.double(),
        entropy=entropy.double(),
        terms=counts.sum().double(),
        kl=k3[counts].sum(),
        clipped=outside[counts].sum().double(),
        ratio=ratio[counts].sum(),
        ratio_max=torch.where(counts, ratio, 0.0).max(),
    )
