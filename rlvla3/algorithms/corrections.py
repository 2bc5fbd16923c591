"""Corrections for staleness: how the loss treats decisions that an older policy made.

An asynchronous update has three policies. The BEHAVIOUR policy made the decision. The PROXIMAL policy is the policy at the start of the update. pi is the
policy in training. A correction chooses the anchor, which pi must stay close to, and the weight of each term:

    loss = - sum of  weight(w) surrogate(pi / pi_anchor, A)        with w = pi_proximal / pi_behaviour

The proximal policy made every fresh decision. There w = 1 and both anchors agree. So without staleness, all corrections but `soft` are plain PPO. Corrections
work with GAE and with group-relative advantages. Only V-trace needs a critic.

A fresh decision was made with the same weights, but with other roundings: by pi_sampler, not by pi_proximal. With algorithm.sampler_correction, training takes
pi_proximal from its own evaluation, and w = min(pi_proximal / pi_sampler, algorithm.sampler_cap) for a fresh decision. Around the behaviour policy, the anchor
of fresh decisions is pi_proximal then, and their weight is w. Truncated importance sampling for samplers that round differently: Yao et al., "Your efficient RL
framework secretly brings you off-policy RL training" (2025).

A user can write a correction: a class like the ones below, named in the recipe as `module:Class`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlvla3.algorithms.losses import clipped_surrogate, soft_surrogate
from rlvla3.config import CORRECTION_NAMES, AlgorithmConfig
from rlvla3.errors import RecipeError
from rlvla3.named import call_of_user, load_named


class Correction:
    """No correction: PPO's clip around the behaviour policy, with weight 1 for each decision. Staleness uses up a part of the clip range.

    Schulman et al., arXiv 1707.06347, equation 7.
    """

    anchor: ClassVar[Literal["behaviour", "proximal"]] = "behaviour"
    uses_vtrace: ClassVar[bool] = False
    """Whether V-trace also corrects the advantages and the value targets."""

    def __init__(self, config: AlgorithmConfig) -> None:
        self.config = config

    def weight(self, ratio: Tensor) -> Tensor:
        """The weight of each term, [B, L], without gradient. ratio: pi_proximal / pi_behaviour, [B, L]. Called only where `anchor` is "proximal"."""
        return torch.ones_like(ratio)

    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """The objective of each term, [B, L]. ratio: pi / pi_anchor, [B, L], with gradient. advantage: [B, 1]."""
        return clipped_surrogate(ratio, advantage, self.config.clip_low, self.config.clip_high, self.config.dual_clip)


class Decoupled(Correction):
    """Decoupled PPO: the clip is around the proximal policy. Importance weights account for the difference between behaviour and proximal policy.

        J = w min(r A, clip(r) A)        r = pi / pi_proximal,  w = min(pi_proximal / pi_behaviour, cap), by default without a cap

    Hilton, Cobbe and Schulman, "Batch size-invariance for policy optimization", arXiv 2110.00641; for asynchronous RL: Fu et al., AReaL, arXiv 2505.24298,
    section 5.2.
    """

    anchor = "proximal"

    def weight(self, ratio: Tensor) -> Tensor:
        cap = self.config.correction.cap
        return ratio if cap is None else ratio.clamp(max=cap)


class Truncated(Decoupled):
    """Truncated importance sampling: decoupled PPO with weights of at most `cap` (default 2). The cap adds bias and bounds the variance.

        w = min(pi_proximal / pi_behaviour, cap)

    Ionides, "Truncated importance sampling", Journal of Computational and Graphical Statistics 17 (2008).
    """


class VTrace(Decoupled):
    """V-trace: weights rho = min(w, cap) with cap 1 by default. Advantages and value targets are corrected along the trajectory (advantages.vtrace).

    Espeholt et al., IMPALA, arXiv 1802.01561, section 4. The clip around the proximal policy bounds the change over several steps on the same data, as in
    IMPACT, Luo et al., arXiv 1912.00167.
    """

    uses_vtrace = True


class Soft(Correction):
    """A soft trust region around the behaviour policy. The weight of a decision falls smoothly as its ratio leaves 1 (losses.soft_surrogate)."""

    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return soft_surrogate(ratio, advantage, self.config.correction.temperatures)


CORRECTIONS: Mapping[str, type[Correction]] = {"none": Correction, "decoupled": Decoupled, "truncated": Truncated, "vtrace": VTrace, "soft": Soft}

assert CORRECTIONS.keys() == set(CORRECTION_NAMES)


def make_correction(config: AlgorithmConfig) -> Correction:
    """The correction that a recipe names. Raises RecipeError where a class of the user's cannot be loaded or made."""
    name = config.correction.name
    if name in CORRECTIONS:
        return CORRECTIONS[name](config)
    kind = load_named(name, "algorithm.correction")
    if not isinstance(kind, type) or not issubclass(kind, Correction):
        raise RecipeError(f"algorithm.correction={name} is not a correction: it must be a subclass of rlvla3.algorithms.corrections.Correction")
    return call_of_user(kind, f"algorithm.correction={name} cannot be made", config)
