"""From probability ratios and advantages to losses: pure functions of tensors.

Invariant: every loss is a SUM over decisions, never a mean. The learner divides once, by the number of decisions of the whole optimizer step. So a gradient
does not depend on how the step was cut into micro-batches (law 3).

Shapes: B decisions, C actions a chunk, A action dimensions, L terms of a decision (ratios.py).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlvla3.algorithms.ratios import LARGEST_LOG_RATIO, Ratios


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None) -> Tensor:
    """PPO's objective of each term, [B, L]. ratio: pi / pi_anchor, [B, L]. advantage: [B, 1].

        J = min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)        and, where A < 0,  J = max(J, dual_clip A)

    Schulman et al., "Proximal policy optimization algorithms", arXiv 1707.06347, equation 7.
    Different lower and upper clips: DAPO, arXiv 2503.14476, equation 10.
    Dual clip: Ye et al., "Mastering complex control in MOBA games", arXiv 1912.09729, equation 5.
    """
    objective = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    if dual_clip is not None:
        objective = torch.where(advantage < 0, torch.maximum(objective, dual_clip * advantage), objective)
    return objective


def soft_surrogate(ratio: Tensor, advantage: Tensor, temperatures: tuple[float, float]) -> Tensor:
    """A smooth trust region instead of a clip: the objective of each term, [B, L].

    ratio: [B, L]. advantage: [B, 1]. temperatures: tau for positive advantages, and tau for all others.

        J = 4 / tau sigmoid(tau (r - 1)) A

    The gradient of log pi has the weight 4 p (1 - p) r A with p = sigmoid(tau (r - 1)). This is A at r = 1, and less away from r = 1.

    "Soft adaptive policy optimization", arXiv 2511.20347.
    """
    positive, other = temperatures
    tau = torch.full_like(advantage, other).masked_fill(advantage > 0, positive)
    return 4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantage


def value_loss(value: Tensor, target: Tensor, behaviour: Tensor, clip: float | None = None) -> Tensor:
    """The sum of the squared errors of values [B]: a scalar. target: [B]. behaviour: the values that were recorded at the time of acting, [B].

        L = (V - target)^2        clipped:  max(L, (V_behaviour + clamp(V - V_behaviour, -clip, clip) - target)^2)

    The clipped form is from PPO2 in OpenAI baselines; Engstrom et al., arXiv 2005.12729, equation 2.
    """
    error = (value - target).square()
    if clip is not None:
        near = behaviour + (value - behaviour).clamp(-clip, clip)
        error = torch.maximum(error, (near - target).square())
    return error.sum()


def reference_loss(ratios: Ratios, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """KL(policy || reference), summed over the batch: a scalar. ratios: pi / pi_reference.

        with log s = log pi_reference - log pi:        k1 = -log s        k2 = (log s)^2 / 2        k3 = (s - 1) - log s

    Under the policy itself the gradient of k1 has mean zero, so k1 is good as a measure and weak as a loss. Schulman, "Approximating KL divergence" (2020).
    GRPO uses k3 as a loss: arXiv 2402.03300, equation 4.
    """
    log = (-ratios.log).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    terms = {"k1": -log, "k2": log.square() / 2, "k3": torch.expm1(log) - log}[estimator]
    return (terms * ratios.weight).sum()


def entropy_sum(entropy: Tensor, executed: Tensor) -> Tensor:
    """The entropy of the batch: the sum of entropy [B, C, A] over executed actions (bool [B, C, A]), divided by the chunk length C. A scalar."""
    return torch.where(executed, entropy, 0.0).sum() / executed.shape[1]
