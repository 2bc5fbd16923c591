"""The policy's part of the loss: surrogate and correction for staleness, entropy, and the pull towards a reference policy.

The proximal policy costs nothing where it can be had for nothing: a decision of the update's own version has it on record, as its behaviour policy; and until
the first optimizer step moves the weights, it is the policy being evaluated anyway. Only stale decisions of later steps take a forward pass of their own, once:
at most one further pass over the data, none without staleness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.algorithms.advantages import Floats
from rlvla3.algorithms.corrections import make_correction
from rlvla3.algorithms.losses import entropy_sum, reference_loss
from rlvla3.algorithms.ratios import Ratios, executed_actions, ratios
from rlvla3.config import AlgorithmConfig
from rlvla3.errors import ExplainedError
from rlvla3.links.rollouts import Rollouts
from rlvla3.policies.base import Evaluation
from rlvla3.training.data_parallel import DataParallel
from rlvla3.training.earlier import EarlierPolicy, Evaluate
from rlvla3.types import MicroBatch

Recorded = Mapping[str, NDArray[Any]]
"""Arrays of the data plane at the (ticket, row) pairs of a micro-batch: {name: [B, ...]}."""


class LearnerError(ExplainedError, RuntimeError):
    """Training that cannot go on: what happened, in which update, and what to do about it."""


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """total: what to minimise, summed over decisions. parts: its sums by name. ratios: to the anchor. staleness: of the proximal to the behaviour policy, in
    the first epoch and where it is known."""

    total: Tensor
    parts: Mapping[str, Tensor]
    ratios: Ratios
    staleness: Ratios | None


class PolicyObjective:
    """One update after the other:

    objective.begin(update, tickets)
    loss = objective.loss(micro_batch, recorded, evaluation, advantage)
    objective.before_step()                                             # the weights are about to move
    """

    def __init__(self, parallel: DataParallel, config: AlgorithmConfig, rollouts: Rollouts, evaluate: Evaluate) -> None:
        self.config, self.rollouts = config, rollouts
        self.correction = make_correction(config)
        self._proximal = EarlierPolicy(parallel, rollouts.spec.rows, evaluate)
        self._reference = EarlierPolicy(parallel, rollouts.spec.rows, evaluate) if config.reference.weight else None
        self._name = type(parallel.policy).__name__

    def begin(self, update: int, tickets: range) -> None:
        """Start an update. The reference policy is the one that the first update of all begins with."""
        self._update, self._moved = update, False
        self._proximal.begin(tickets)
        if self._reference is not None:
            self._reference.begin(tickets)
            if self._reference.weights is None:
                self._reference.take()

    def before_step(self) -> None:
        """The weights move for the first time in this update, or move on: keep the proximal policy while it is there."""
        if not self._moved and self.correction.anchor == "proximal":
            self._proximal.take()
        self._moved = True

    def finish(self) -> None:
        """The update is over: nobody asks for its proximal policy any more."""
        self._proximal.release()

    def importance(self, ticket: int) -> Floats:
        """pi_proximal / pi_behaviour of each decision of an episode that has ended, whole chunks: float64 [decisions]."""
        rows = np.arange(self.rollouts.decisions(ticket))
        tickets = np.full(len(rows), ticket)
        recorded = self.rollouts.gather(tickets, rows, ("logprob", "version", "executed", "dimensions"))
        proximal = self._recomputed(tickets, rows, recorded)
        behaviour = torch.from_numpy(recorded["logprob"]).to(proximal)
        found: Floats = ratios(proximal, behaviour, self._executed(recorded, behaviour), "chunk").value[:, 0].double().cpu().numpy()
        return found

    def loss(self, batch: MicroBatch, recorded: Recorded, evaluation: Evaluation, advantage: Tensor) -> PolicyLoss:
        """The loss of one micro-batch. advantage: [B]."""
        config, present = self.config, evaluation.logprob
        executed = self._executed(recorded, present)
        ratio, weight, staleness = self._anchored(batch, recorded, present, executed)
        parts = {"policy_loss": -(ratio.weight * weight * self.correction.surrogate(ratio.value, advantage[:, None])).sum()}
        total = parts["policy_loss"]
        if self._reference is not None:
            reference = ratios(present, self._reference.logprob(batch.tickets, batch.rows).to(present), executed, config.ratio)
            parts["reference_kl"] = reference_loss(reference, config.reference.estimator)
            total = total + config.reference.weight * parts["reference_kl"]
        if evaluation.entropy is not None:
            parts["entropy"] = entropy_sum(evaluation.entropy, executed)
        if config.entropy:
            total = total - config.entropy * self._need_entropy(parts)
        return PolicyLoss(total, parts, ratio, staleness if batch.epoch == 0 else None)

    @property
    def reference(self) -> list[Tensor] | None:
        """The weights of the reference policy, one for each of the actor's parameters; None before the first update, and where there is none."""
        return None if self._reference is None else self._reference.weights

    def take_reference(self, weights: Sequence[Tensor]) -> None:
        """Go on with the reference policy of the run that is resumed. The recipe may have none any more."""
        if self._reference is not None:
            self._reference.take(weights)

    def _anchored(self, batch: MicroBatch, recorded: Recorded, present: Tensor, executed: Tensor) -> tuple[Ratios, Tensor | float, Ratios | None]:
        """Ratios of the present policy to the correction's anchor, what each weighs, and those of the proximal to the behaviour policy.

        The last are None where only a further pass would tell, and the correction does without.
        """
        behaviour = torch.from_numpy(recorded["logprob"]).to(present)
        if self.correction.anchor == "behaviour":
            staleness = None if self._moved else ratios(present.detach(), behaviour, executed, self.config.ratio)
            return ratios(present, behaviour, executed, self.config.ratio), 1.0, staleness
        if not self._moved:
            self._proximal.remember(batch.tickets, batch.rows, present)
        proximal = self._recomputed(batch.tickets, batch.rows, recorded).to(present)
        staleness = ratios(proximal, behaviour, executed, self.config.ratio)
        return ratios(present, proximal, executed, self.config.ratio), self.correction.weight(staleness.value), staleness

    def _recomputed(self, tickets: NDArray[np.int64], rows: NDArray[np.int64], recorded: Recorded) -> Tensor:
        fresh = recorded["version"] == self._update
        self._proximal.remember(tickets[fresh], rows[fresh], torch.from_numpy(recorded["logprob"][fresh]))
        return self._proximal.logprob(tickets, rows)

    def _executed(self, recorded: Recorded, like: Tensor) -> Tensor:
        executed, dimensions = (torch.from_numpy(recorded[name]).to(like.device) for name in ("executed", "dimensions"))
        return executed_actions(executed, dimensions, like.shape[1:])

    def _need_entropy(self, parts: Mapping[str, Tensor]) -> Tensor:
        if "entropy" not in parts:
            raise LearnerError(f"algorithm.entropy={self.config.entropy}, and {self._name} gives no entropy for its head: set algorithm.entropy=0")
        return parts["entropy"]
