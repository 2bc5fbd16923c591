"""The policy's part of the loss: the surrogate with its corrections for staleness and for the sampler, the entropy bonus, and the KL penalty to a reference.

A correction needs log-probs under the proximal policy. Most of them cost nothing. For a decision of the update's own version, they are the recorded ones,
because the behaviour policy is the proximal policy, but for rounding. Before the first optimizer step, they are those of the present policy, which is evaluated
anyway. Only stale decisions in later steps need a forward pass of their own, once. With algorithm.sampler_correction the rounding counts, so fresh decisions in
later steps need that pass too. So there is at most one extra pass over the data, and none without staleness and without that correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from rlvla3.training.earlier_policy import EarlierPolicy, Evaluate
from rlvla3.training.recorded import Loader, Recorded, on_device
from rlvla3.training.sampler_mismatch import SamplerMismatch


class LearnerError(ExplainedError, RuntimeError):
    """Training cannot go on. The message says what happened, in which update, and what to do."""


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The policy's loss of one micro-batch, summed over decisions.

    total: what is minimised. parts: the terms of the loss, by name. ratios: pi / pi_anchor.
    staleness: pi_proximal / pi_behaviour. None after the first epoch, and where it is not known.
    sampler: pi_trainer / pi_sampler of fresh decisions, for the same weights. Other decisions weigh 0. None after the first optimizer step.
    """

    total: Tensor
    parts: Mapping[str, Tensor]
    ratios: Ratios
    staleness: Ratios | None
    sampler: Ratios | None


class PolicyObjective:
    """The policy's objective, for one update after another.

    objective.begin(update, tickets)
    loss = objective.loss(micro_batch.epoch, recorded, evaluation, advantage)
    objective.before_step()                                             # call it before the weights change
    metrics = objective.finish()

    max_staleness: how many updates older than its update the policy of a decision may be.
    """

    def __init__(self, parallel: DataParallel, config: AlgorithmConfig, rollouts: Rollouts, loader: Loader, evaluate: Evaluate, max_staleness: int = 0) -> None:
        self.config, self.rollouts, self._loader = config, rollouts, loader
        self.correction = make_correction(config)
        self.corrects_sampler = config.sampler_correction == "truncated"
        self.mismatch = SamplerMismatch(parallel, rollouts.spec.rows, loader, evaluate, config.ratio, max_staleness)
        self._proximal = EarlierPolicy(parallel, rollouts.spec.rows, evaluate)
        self._reference = EarlierPolicy(parallel, rollouts.spec.rows, evaluate) if config.reference.weight else None
        self._policy_name = type(parallel.policy).__name__

    def begin(self, update: int, tickets: range) -> None:
        """Start an update. The reference policy is the policy at the start of the run's first update."""
        self._update, self._weights_changed = update, False
        self._proximal.begin(tickets)
        self.mismatch.begin(update, tickets)
        if self._reference is not None:
            self._reference.begin(tickets)
            if self._reference.weights is None:
                self._reference.keep_weights()

    def before_step(self) -> None:
        """Keep the weights that the update began with, where they are needed. Call it before each optimizer step: the first call in an update counts."""
        if not self._weights_changed:
            self.mismatch.before_first_step()
            if self.correction.anchor == "proximal" or self.corrects_sampler or self.mismatch.keeps_weights:
                self._proximal.keep_weights()
        self._weights_changed = True

    def finish(self, statistics_change: bool = False) -> dict[str, float]:
        """End the update. Returns the metrics of the sampler's mismatch. The weights of the proximal policy are freed, if these do not need them.

        statistics_change: whether the policy is about to change by its running statistics, also where no step was made, as while the critic warms up.
        """
        if statistics_change:
            self.before_step()
        metrics = self.mismatch.finish(self._proximal.weights)
        self._proximal.drop_weights()
        return metrics

    def importance(self, ticket: int) -> Floats:
        """pi_proximal / pi_behaviour of each decision of an episode that has ended: float64 [decisions]. The ratios are those of whole chunks."""
        rows = np.arange(self.rollouts.decisions(ticket))
        tickets = np.full(len(rows), ticket)
        recorded = self._loader.load(tickets, rows, ("logprob", "version", "executed", "dimensions"))
        proximal = self._proximal_logprob(recorded)
        behaviour = recorded["logprob"].to(proximal)
        importance = self._importance(ratios(proximal, behaviour, self._executed(recorded, behaviour), "chunk"), recorded)
        found: Floats = importance[:, 0].double().cpu().numpy()
        return found

    def loss(self, epoch: int, recorded: Recorded, evaluation: Evaluation, advantage: Tensor) -> PolicyLoss:
        """The loss of one micro-batch. epoch: its epoch. advantage: [B]. Raises LearnerError where the recipe needs an entropy and the policy has none."""
        config, present = self.config, evaluation.logprob
        executed = self._executed(recorded, present)
        unmoved = None if self._weights_changed else ratios(present.detach(), recorded["logprob"].to(present), executed, config.ratio)
        self.mismatch.see(recorded)
        ratio, weight, staleness = self._ratios_to_anchor(recorded, present, executed, unmoved)
        parts = {"policy_loss": -(ratio.weight * weight * self.correction.surrogate(ratio.value, advantage[:, None])).sum()}
        total = parts["policy_loss"]
        if self._reference is not None:
            reference = ratios(present, self._reference.logprob(recorded.tickets, recorded.rows).to(present), executed, config.ratio)
            parts["reference_kl"] = reference_loss(reference, config.reference.estimator)
            total = total + config.reference.weight * parts["reference_kl"]
        if evaluation.entropy is not None:
            parts["entropy"] = entropy_sum(evaluation.entropy, executed)
        if config.entropy:
            total = total - config.entropy * self._required_entropy(parts)
        return PolicyLoss(total, parts, ratio, staleness if epoch == 0 else None, self._sampler(recorded, unmoved))

    @property
    def reference(self) -> list[Tensor] | None:
        """The weights of the reference policy, one for each of the policy's acting_tensors. None before the first update, and where there is no reference."""
        return None if self._reference is None else self._reference.weights

    def load_reference(self, weights: Sequence[Tensor]) -> None:
        """Set the reference policy of a resumed run. Does nothing where the recipe has no reference."""
        if self._reference is not None:
            self._reference.keep_weights(weights)

    def _ratios_to_anchor(self, recorded: Recorded, present: Tensor, executed: Tensor, unmoved: Ratios | None) -> tuple[Ratios, Tensor | float, Ratios | None]:
        """pi / pi_anchor, the weight of each term, and pi_proximal / pi_behaviour.

        unmoved: pi / pi_behaviour before the first step, else None. It is the last result where the clip is around the behaviour policy: later only an extra
        pass would give it.
        """
        behaviour, level, around_behaviour = recorded["logprob"].to(present), self.config.ratio, self.correction.anchor == "behaviour"
        if around_behaviour and not self.corrects_sampler:
            return ratios(present, behaviour, executed, level), 1.0, unmoved
        if not self._weights_changed:
            self._proximal.record(recorded.tickets, recorded.rows, present)
        anchor = self._proximal_logprob(recorded).to(present)
        distance = ratios(anchor, behaviour, executed, level)
        importance = self._importance(distance, recorded)
        if around_behaviour:
            return ratios(present, anchor, executed, level), importance, unmoved
        return ratios(present, anchor, executed, level), self.correction.weight(importance), distance

    def _proximal_logprob(self, recorded: Recorded) -> Tensor:
        """The log-probs that the clip is around. Those of the record are taken for fresh decisions, if the sampler is not corrected.

        If it is, and the clip is around the behaviour policy, they are taken for stale decisions: their behaviour policy is known by the record alone.
        """
        fresh = self._fresh(recorded)
        taken = ~fresh & (self.correction.anchor == "behaviour") if self.corrects_sampler else fresh
        self._proximal.record(recorded.tickets, recorded.rows, recorded["logprob"], taken)
        return self._proximal.logprob(recorded.tickets, recorded.rows)

    def _importance(self, distance: Ratios, recorded: Recorded) -> Tensor:
        """pi_proximal / pi_behaviour, [B, L]. For a fresh decision it is the trainer's probability over the sampler's, and limited by algorithm.sampler_cap."""
        if not self.corrects_sampler:
            return distance.value
        fresh = on_device(self._fresh(recorded), distance.log.device)[:, None]
        return torch.where(fresh, distance.value.clamp(max=self.config.sampler_cap), distance.value)

    def _sampler(self, recorded: Recorded, unmoved: Ratios | None) -> Ratios | None:
        """pi_trainer / pi_sampler of fresh decisions. unmoved: that of all decisions."""
        if unmoved is None:
            return None
        fresh = on_device(self.mismatch.fresh(recorded.arrays["version"]), unmoved.log.device)
        return Ratios(unmoved.log, unmoved.weight * fresh[:, None])

    def _fresh(self, recorded: Recorded) -> NDArray[np.bool_]:
        """Which decisions are of the update's own version: bool [B]."""
        fresh: NDArray[np.bool_] = recorded.arrays["version"] == self._update
        return fresh

    def _executed(self, recorded: Recorded, like: Tensor) -> Tensor:
        return executed_actions(recorded["executed"], recorded["dimensions"], like.shape[1:])

    def _required_entropy(self, parts: Mapping[str, Tensor]) -> Tensor:
        if "entropy" not in parts:
            raise LearnerError(
                f"algorithm.entropy={self.config.entropy} needs an entropy, and the head of {self._policy_name} gives none: set algorithm.entropy=0"
            )
        return parts["entropy"]
