"""Corrections for staleness: what becomes of decisions that an older policy made.

Three policies meet in an asynchronous update: the BEHAVIOUR policy made the decision, the PROXIMAL policy is the one the update began with, and pi is being
trained. A correction chooses the anchor, from which pi may not go far, and what each term weighs:

    loss = - sum of  weight(w) surrogate(pi / pi_anchor, A)        with w = pi_proximal / pi_behaviour

A fresh decision was made by the proximal policy itself, so w = 1 and the anchors agree: without staleness, all of them but `soft` are plain PPO. What they are
used with, GAE or a group's comparison, makes no difference to them; only V-trace needs a critic.

A correction of one's own is a class like these, named in the recipe as `module:Class`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rlvla3.algorithms.losses import clipped_surrogate, soft_surrogate
from rlvla3.config import CORRECTION_NAMES, AlgorithmConfig
from rlvla3.named import load_named


class Correction:
    """No correction: PPO's clip around the behaviour policy, each decision with weight 1. Staleness uses part of the clip up.

    Schulman et al., arXiv 1707.06347, equation 7.
    """

    anchor: ClassVar[Literal["behaviour", "proximal"]] = "behaviour"
    traces: ClassVar[bool] = False
    """Whether advantages and value targets are corrected too, by V-trace."""

    def __init__(self, config: AlgorithmConfig) -> None:
        self.config = config

    def weight(self, ratio: Tensor) -> Tensor:
        """What a term weighs, [B, L], where ratio [B, L] is pi_proximal / pi_behaviour; without gradient. Asked only where the anchor is `proximal`."""
        return torch.ones_like(ratio)

    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """The objective of each term, [B, L], where ratio [B, L] is pi / pi_anchor, with gradient. advantage: [B, 1]."""
        return clipped_surrogate(ratio, advantage, self.config.clip_low, self.config.clip_high, self.config.dual_clip)


class Decoupled(Correction):
    """Decoupled PPO: the clip is around the proximal policy, and importance weights turn the data into the proximal policy's.

        J = w min(r A, clip(r) A)        r = pi / pi_proximal,  w = min(pi_proximal / pi_behaviour, cap), by default without a cap

    Hilton, Cobbe and Schulman, "Batch size-invariance for policy optimization", arXiv 2110.00641; for asynchronous RL: Fu et al., AReaL, arXiv 2505.24298,
    section 5.2.
    """

    anchor = "proximal"

    def weight(self, ratio: Tensor) -> Tensor:
        cap = self.config.correction.cap
        return ratio if cap is None else ratio.clamp(max=cap)


class Truncated(Decoupled):
    """Truncated importance sampling: decoupled PPO with weights of at most `cap` (2), some bias for a bounded variance.

        w = min(pi_proximal / pi_behaviour, cap)

    Ionides, "Truncated importance sampling", Journal of Computational and Graphical Statistics 17 (2008).
    """


class VTrace(Decoupled):
    """V-trace: weights rho = min(w, cap) with cap 1, and advantages and value targets that are corrected along the trajectory (advantages.vtrace).

    Espeholt et al., IMPALA, arXiv 1802.01561, section 4. The clip around the proximal policy bounds several steps on the same data, as in IMPACT,
    Luo et al., arXiv 1912.00167.
    """

    traces = True


class Soft(Correction):
    """A soft trust region around the behaviour policy: the further off, the less a decision weighs, without an edge. See losses.soft_surrogate."""

    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return soft_surrogate(ratio, advantage, self.config.correction.temperatures)


CORRECTIONS: Mapping[str, type[Correction]] = {"none": Correction, "decoupled": Decoupled, "truncated": Truncated, "vtrace": VTrace, "soft": Soft}

assert CORRECTIONS.keys() == set(CORRECTION_NAMES)


def make_correction(config: AlgorithmConfig) -> Correction:
    """The correction that a recipe names. Raises RecipeError where it names what cannot be loaded."""
    name = config.correction.name
    kind: type[Correction] = CORRECTIONS[name] if name in CORRECTIONS else load_named(name, "algorithm.correction")
    return kind(config)
