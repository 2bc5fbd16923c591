"""Credit assignment: the advantage and the value target of each decision of an update. They are computed once for each episode, from its record.

Invariants:
- the numbers of an episode depend on its own record and on the statistics of past updates. With GRPO and RLOO they also depend on the episode's group, and with
  V-trace on the policy at the start of the update. They never depend on which other episodes have arrived (law 3);
- the statistics change only at the end of an update. They use all decisions that were learned from, in ticket order, on whichever rank they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.algorithms.advantages import Floats, RunningStatistics, decision_rewards, executed_steps, explained_variance, gae, grpo, returns_to_go, vtrace
from rlvla3.config import AlgorithmConfig
from rlvla3.links.rollouts import Rollouts
from rlvla3.training.ranks import SINGLE_RANK, Ranks

Importance = Callable[[int], Floats]
"""From a ticket to pi_proximal / pi_behaviour of each of its decisions, [T]. The proximal policy is the policy at the start of the update."""


class Credit:
    """Advantages and value targets, for one update after another.

        credit.begin(tickets=range(64, 128))
        learned = credit.learns_from(micro_batch.tickets)
        advantages, targets = credit.compute(micro_batch.tickets, micro_batch.rows)
        metrics = credit.finish()

    importance: with it, V-trace computes the value targets. It is called once for each episode, and equally often on all ranks. None means GAE.
    ranks: each rank computes the numbers of its own tickets. At the end of an update, all ranks gather them.
    """

    def __init__(self, config: AlgorithmConfig, rollouts: Rollouts, importance: Importance | None, ranks: Ranks = SINGLE_RANK) -> None:
        self.config, self.rollouts, self.importance, self.ranks = config, rollouts, importance, ranks
        self.statistics = RunningStatistics()

    @property
    def ready(self) -> bool:
        """Whether advantages are normalised as the recipe asks. With running statistics, this is False until the end of the first update."""
        return self.config.normalise != "running" or self.statistics.has_values

    def begin(self, tickets: range) -> None:
        self._tickets = tickets
        self._computed = np.zeros(len(tickets), bool)
        # [tickets of the update, rows of a block], nan where there is no decision (yet).
        self._advantages, self._targets = np.full((2, len(tickets), self.rollouts.spec.rows), np.nan)

    def learns_from(self, tickets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the learner learns from each ticket's decisions: bool [n]. With filter_groups, False for a group where all or none of the episodes succeed.

        Call it only when whole groups have ended.
        """
        if not self.config.filter_groups:
            return np.ones(len(tickets), bool)
        distinct, at = np.unique(tickets, return_inverse=True)
        successes = [[bool(self.rollouts.about(member, "success")) for member in self._ran(self._group(ticket))] for ticket in distinct.tolist()]
        return np.array([any(group) and not all(group) for group in successes], bool)[at]

    def compute(self, tickets: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """The advantages, normalised and clipped, and the value targets at (ticket, row) pairs: float64 [n] each.

        Call it only for episodes that have ended, and where groups are compared for groups that have ended. The streamer emits only such decisions.
        """
        places = tickets - self._tickets.start
        for place in self._missing(places):
            self._credit(self._tickets[place])
        advantages = self._advantages[places, rows]
        if self.config.normalise == "running" and self.statistics.has_values:
            advantages = self.statistics.normalise(advantages)
        return advantages.clip(-self.config.advantage_clip, self.config.advantage_clip), self._targets[places, rows]

    def finish(self) -> dict[str, float]:
        """Update the statistics with the decisions that were learned from. Returns the update's metrics. After it, no rank reads the update's episodes."""
        seen = np.flatnonzero(self._computed)
        learned = seen[self.learns_from(seen + self._tickets.start)]
        places, rows = np.nonzero(~np.isnan(self._advantages[learned]))
        places = learned[places]
        values = self.rollouts.gather(places + self._tickets.start, rows, ("value",))["value"]
        own = (places, rows, self._advantages[places, rows], self._targets[places, rows], values)
        places, rows, advantages, targets, values = (np.concatenate(parts) for parts in zip(*self.ranks.gather(own), strict=True))
        order = np.lexsort((rows, places))
        advantages, targets, values = advantages[order], targets[order], values[order]
        metrics = {}
        if self.config.filter_groups:
            metrics["filtered_share"] = 1 - self.ranks.sum(len(learned))[0] / len(self._tickets)
        if not len(places):
            return metrics
        self.statistics.add_update(advantages)
        metrics |= {"advantage_mean": float(advantages.mean()), "advantage_std": float(advantages.std())}
        if self.config.has_critic:
            metrics["explained_variance"] = explained_variance(values, targets)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {"statistics": self.statistics.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.statistics.load_state_dict(state["statistics"])

    def _missing(self, places: NDArray[np.int64]) -> list[int]:
        """The tickets to compute before `places` can be looked up: the places of single tickets, or of the first tickets of groups, within the update."""
        together = self.config.group_size if self.config.compares_groups else 1
        missing: list[int] = np.unique(places[~self._computed[places]] // together * together).tolist()
        if self.importance is not None:  # it evaluates the policy on all ranks together, so a rank with fewer tickets computes one of them again
            missing += [int(places[0])] * (self.ranks.maximum(len(missing)) - len(missing))
        return missing

    def _credit(self, ticket: int) -> None:
        """Compute the numbers of an episode, or of its whole group where groups are compared."""
        match self.config.advantage:
            case "gae":
                self._fill(ticket, *self._critic_advantages(ticket))
            case "reinforce++":
                returns = returns_to_go(*self._rewards(ticket))
                self._fill(ticket, returns, returns)
            case "grpo" | "rloo":
                self._compare_group(self._group(ticket))

    def _critic_advantages(self, ticket: int) -> tuple[Floats, Floats]:
        """GAE or V-trace. The values are those recorded at the time of acting. The observation after a time limit has only such a value."""
        config = self.config
        rewards, discounts = self._rewards(ticket)
        values = self.rollouts.rows(ticket, "value")[: len(rewards) + 1]
        ended = bool(self.rollouts.about(ticket, "terminated")) or not config.bootstrap
        after = 0.0 if ended else float(values[-1])
        if self.importance is not None:
            ratios, correction = self.importance(ticket), config.correction
            return vtrace(rewards, values[:-1], after, ratios, discounts, config.lam, correction.cap, correction.trace_cap)
        return gae(rewards, values[:-1], after, discounts, config.lam)

    def _compare_group(self, group: Sequence[int]) -> None:
        """GRPO or RLOO. The targets are the undiscounted returns. No critic learns them. Tickets that were set aside do not count."""
        config, group = self.config, self._ran(group)
        rewards, firsts = zip(*map(self._compared_rewards, group), strict=True)
        advantages = grpo(rewards, scale=config.normalise == "group", leave_one_out=config.leave_one_out or config.advantage == "rloo")
        for ticket, own, of_rewards, first in zip(group, rewards, advantages, firsts, strict=True):
            self._fill(ticket, of_rewards[first], np.full(len(first), own.sum()))

    def _compared_rewards(self, ticket: int) -> tuple[Floats, NDArray[np.int64]]:
        """The rewards of an episode that its group compares, and for each decision the index of the first reward that counts for it: [T]."""
        rewards = self.rollouts.episode(ticket, "rewards").astype(np.float64)
        if self.config.supervision == "outcome":
            return np.array([rewards.sum()]), np.zeros(len(rewards), np.int64)
        if self.config.rewards == "chunk":
            return rewards.sum(1), np.arange(len(rewards))
        executed = self.rollouts.episode(ticket, "executed").astype(np.int64)
        return rewards[executed_steps(executed, rewards.shape[1])], np.cumsum(executed) - executed

    def _rewards(self, ticket: int) -> tuple[Floats, Floats]:
        """The reward and the discount of each decision: ([T], [T])."""
        rewards, executed = (self.rollouts.episode(ticket, name) for name in ("rewards", "executed"))
        return decision_rewards(rewards, executed, self.config.gamma, self.config.rewards)

    def _group(self, ticket: int) -> range:
        first = ticket - (ticket - self._tickets.start) % self.config.group_size
        return range(first, first + self.config.group_size)

    def _ran(self, group: Iterable[int]) -> list[int]:
        """The tickets that have an episode. A ticket without decisions was set aside."""
        return [ticket for ticket in group if self.rollouts.decisions(ticket)]

    def _fill(self, ticket: int, advantages: Floats, targets: Floats) -> None:
        place = ticket - self._tickets.start
        self._advantages[place, : len(advantages)] = advantages
        self._targets[place, : len(targets)] = targets
        self._computed[place] = True
