"""Sampling is not training: how far the recorded log-probs are from those that the trainer computes for the same decisions with the same weights.

A generator and the trainer compute the same function with other batch sizes, number formats and kernels, so both round differently. Weights that travel in bf16
are rounded too. The metric is about decisions of versions whose weights the trainer has: their ratio would be 1 if nothing was rounded.

Most decisions cost nothing. Before the first optimizer step, the trainer evaluates all decisions anyway, and it has the weights that made the fresh ones. Where
none of them is fresh, as always in train_async, the weights of an earlier version are kept until decisions of that version arrive, and a few of them are
evaluated once more.

Invariants:
- the metric does not depend on how the first step was cut into micro-batches, nor on the number of ranks (law 3);
- beside the present weights, at most one copy exists during the first step of an update, and after it at most one beside that of the proximal policy. With one
  update of staleness, there is none beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.algorithms.ratios import Level, Ratios, executed_actions, mismatch_metrics, ratios
from rlvla3.config import Recipe
from rlvla3.policies.base import Policy
from rlvla3.training.data_parallel import DataParallel
from rlvla3.training.earlier_policy import EarlierPolicy, Evaluate
from rlvla3.training.recorded import Loader, Recorded
from rlvla3.types import Version

EVALUATED_AGAIN = 32
"""How many decisions of an earlier version are evaluated in an update without fresh decisions, over all ranks: the first ones in the order of tickets."""


class SamplerMismatch:
    """Measures one update after another.

        mismatch.begin(update, tickets)
        mismatch.add(recorded, ratios)          # each micro-batch before the first optimizer step
        mismatch.before_first_step()
        metrics = mismatch.finish(weights)

    rows: the rows of a block. max_staleness: how many updates older than its update the policy of a decision may be.
    """

    def __init__(self, parallel: DataParallel, rows: int, loader: Loader, evaluate: Evaluate, level: Level, max_staleness: int) -> None:
        self._ranks, self._loader, self._level, self._max_staleness = parallel.ranks, loader, level, max_staleness
        self._kept = EarlierPolicy(parallel, rows, evaluate)
        self._kept_versions = range(0)
        self._oldest_fresh: Version | None = None
        self._stepped = True

    @property
    def keeps_weights(self) -> bool:
        """Whether weights are kept after an update, for decisions that are stale in the next one."""
        return self._max_staleness > 0

    def begin(self, update: int, tickets: range) -> None:
        """Start an update. Versions since the actor last changed, by a step or by its statistics, compute as the present: their decisions are fresh."""
        if self._stepped or self._oldest_fresh is None:
            self._oldest_fresh = update
        self._update, self._stepped = update, False
        self._measured: list[Ratios] = []
        self._fresh = False
        self._older: list[NDArray[np.int64]] = [np.empty((0, 2), np.int64)]
        self._kept.begin(tickets)

    def fresh(self, versions: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which decisions were made with the weights that the update began with: bool [B]. versions: those that made them, [B]."""
        assert self._oldest_fresh is not None
        found: NDArray[np.bool_] = versions >= self._oldest_fresh
        return found

    def see(self, recorded: Recorded) -> None:
        """Note a decision that this rank can evaluate in a pass that all ranks make."""
        self._seen = np.stack([recorded.tickets[:1], recorded.rows[:1]], 1)

    def add(self, recorded: Recorded, measured: Ratios | None) -> None:
        """Add a micro-batch of learned decisions. measured: pi_trainer / pi_sampler of the fresh ones, None after the first step. Others weigh 0."""
        if measured is None:
            return
        versions = recorded.arrays["version"]
        if self.fresh(versions).any():
            self._fresh = True
            self._measured.append(measured)
        if self._kept_versions:
            older = (versions >= self._kept_versions.start) & (versions < self._kept_versions.stop)
            self._older.append(np.stack([recorded.tickets[older], recorded.rows[older]], 1))

    def before_first_step(self) -> None:
        """Measure decisions of the kept version, where there was no fresh decision on any rank. Call it before the first optimizer step of the actor."""
        self._stepped = True
        if not self._kept_versions:
            return
        measured = self._ranks.any(self._fresh) or self._measure_older()
        too_old_from_now_on = self._kept_versions[-1] + self._max_staleness <= self._update
        if measured or too_old_from_now_on:
            self._kept.drop_weights()
            self._kept_versions = range(0)

    def finish(self, weights: list[Tensor] | None) -> dict[str, float]:
        """End the update. Returns its metrics, over all ranks. Empty where nothing could be measured.

        weights: those that the update began with, one for each of the actor's parameters, or None where they have not changed. They may be kept.
        """
        if weights is not None and self.keeps_weights and not self._kept_versions:
            assert self._oldest_fresh is not None
            self._kept.weights, self._kept_versions = weights, range(self._oldest_fresh, self._update + 1)
        terms = [part.executed.cpu() for part in self._measured]
        gathered = [term for of_rank in self._ranks.gather(terms) for term in of_rank]
        return mismatch_metrics(torch.cat(gathered)) if gathered else {}

    def _measure_older(self) -> bool:
        """Evaluate a few decisions of the kept version. Returns whether there were any. All ranks make the pass."""
        own = np.concatenate(self._older)
        chosen = np.unique(np.concatenate(self._ranks.gather(own)), axis=0)[:EVALUATED_AGAIN]
        if not len(chosen):
            return False
        ours = chosen[(chosen[:, None] == own).all(2).any(1)]
        tickets, rows = (ours if len(ours) else self._seen).T
        trainer = self._kept.logprob(tickets, rows)
        if len(ours):
            recorded = self._loader.load(tickets, rows, ("logprob", "executed", "dimensions"))
            executed = executed_actions(recorded["executed"], recorded["dimensions"], trainer.shape[1:])
            self._measured.append(ratios(trainer, recorded["logprob"].to(trainer), executed, self._level))
        return True


class MismatchWarning:
    """Says once that the sampler is further from the trainer than rounding explains. The bound is that of the policy's family (docs/algorithms.md)."""

    def __init__(self, recipe: Recipe, policy: Policy) -> None:
        self._policy_name, self._said = recipe.policy.name, False
        self._format: Literal["fp32", "bf16"] = "bf16" if "bf16" in (policy.precision, recipe.weights.dtype) else "fp32"
        self.bound = policy.options.mismatch_bound(self._format, recipe.algorithm.ratio, recipe.policy.chunk)

    def after(self, update: int, metrics: Mapping[str, float]) -> str | None:
        """What to say after an update with these metrics. None where all is well, and where it was said before."""
        found = metrics.get("sampler_mismatch_p99", 0.0)
        if self._said or found <= self.bound:
            return None
        self._said = True
        return (
            f"generators and trainer do not compute the same probabilities: sampler_mismatch_p99 is {found:.2g} in update {update}, and rounding "
            f"explains at most {self.bound:.2g} for {self._policy_name} in {self._format}. Measure the policy alone with `rlvla3 bench mismatch`, check it "
            f"with `rlvla3 check --policy`, or set algorithm.sampler_correction=truncated"
        )
