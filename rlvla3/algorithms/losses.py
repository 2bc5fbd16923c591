"""From probability ratios and advantages to losses: pure functions of tensors.

Every loss is a SUM over decisions, never a mean: the learner divides once, by the number of decisions of the whole optimizer step, so a gradient
does not depend on how the step was cut into micro-batches (law 3).

Shapes: B decisions, C actions a chunk, A action dimensions, L terms of a decision (ratios.py).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlvla3.algorithms.ratios import LARGEST_LOG_RATIO, Ratios


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None) -> Tensor:
    """PPO's objective of each term, [B, L]. ratio: [B, L], to the policy that the clip is around. advantage: [B, 1].

        J = min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)        and, where A < 0,  J = max(J, dual_clip A)

    Schulman et al., "Proximal policy optimization algorithms", arXiv 1707.06347, equation 7. Two different clips: DAPO, arXiv 2503.14476, equation 10.
    Dual clip: Ye et al., "Mastering complex control in MOBA games", arXiv 1912.09729, equation 5.
    """
    objective = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    if dual_clip is not None:
        objective = torch.where(advantage < 0, torch.maximum(objective, dual_clip * advantage), objective)
    return objective


def soft_surrogate(ratio: Tensor, advantage: Tensor, temperatures: tuple[float, float]) -> Tensor:
    """A smooth trust region instead of a clip, [B, L]. ratio: [B, L]. advantage: [B, 1]. temperatures: for positive and for other advantages.

        J = 4 / tau sigmoid(tau (r - 1)) A        so the gradient of log pi weighs 4 p (1 - p) r A with p = sigmoid(tau (r - 1)): A at r = 1, less further off

    "Soft adaptive policy optimization", arXiv 2511.20347.
    """
    positive, other = (ratio.new_tensor(temperature) for temperature in temperatures)
    tau = torch.where(advantage > 0, positive, other)
    return 4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantage


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


def reference_loss(ratios: Ratios, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """KL(policy || reference), summed: a scalar. ratios: of the policy to the reference.

        with log s = log pi_reference - log pi:        k1 = -log s        k2 = (log s)^2 / 2        k3 = (s - 1) - log s

    k1 has a gradient of mean zero under the policy itself: it measures more than it pulls. Schulman, "Approximating KL divergence" (2020); k3 as a loss is
    GRPO's, arXiv 2402.03300, equation 4.
    """
    log = (-ratios.log).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    terms = {"k1": -log, "k2": log.square() / 2, "k3": torch.expm1(log) - log}[estimator]
    return (terms * ratios.weight).sum()


def entropy_sum(entropy: Tensor, executed: Tensor) -> Tensor:
    """The entropy [B, C, A] of a decision per action of its chunk, over executed actions (bool [B, C, A]), summed: a scalar."""
    return torch.where(executed, entropy, 0.0).sum() / executed.shape[1]
