"""What each decision of an update earned: its advantage and the value it should have had, found once an episode from what was recorded when it was acted.

Invariants:
- an episode's numbers depend on its own record (GRPO, RLOO: its group's; V-trace: and on the policy that the update began with), and on statistics of past
  updates; never on which other episodes have arrived (law 3);
- statistics change at the end of an update only, from all decisions that were learned from, in ticket order, whichever rank learned from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.algorithms.advantages import Floats, RunningStatistics, decision_rewards, executed_steps, explained_variance, gae, grpo, returns_to_go, vtrace
from rlvla3.config import AlgorithmConfig
from rlvla3.links.rollouts import Rollouts
from rlvla3.training.ranks import ALONE, Ranks

Importance = Callable[[int], Floats]
"""From a ticket to pi_proximal / pi_behaviour of each of its decisions, [T]: the policy that the update began with over the one that acted."""


class Credit:
    """Advantages and value targets of one update after the other.

    credit.begin(tickets=range(64, 128))
    learned = credit.learns_from(micro_batch.tickets)
    advantages, targets = credit.of(micro_batch.tickets, micro_batch.rows)
    metrics = credit.finish()

    importance: where it is given, values are targeted by V-trace; asked once an episode, and equally often by all ranks. None: by GAE.
    ranks: each of them knows what its own tickets earned; together they know the update.
    """

    def __init__(self, config: AlgorithmConfig, rollouts: Rollouts, importance: Importance | None, ranks: Ranks = ALONE) -> None:
        self.config, self.rollouts, self.importance, self.ranks = config, rollouts, importance, ranks
        self.statistics = RunningStatistics()

    @property
    def ready(self) -> bool:
        """Whether advantages are normalised as the recipe asks: not before running statistics have seen an update."""
        return self.config.normalise != "running" or self.statistics.has_values

    def begin(self, tickets: range) -> None:
        self._tickets = tickets
        self._known = np.zeros(len(tickets), bool)
        # [tickets of the update, rows of a block], nan where there is no decision (yet).
        self._advantages, self._targets = np.full((2, len(tickets), self.rollouts.spec.rows), np.nan)

    def learns_from(self, tickets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each ticket's decisions are to be learned from: bool [n]. With filter_groups not those of a group that all succeeds or all fails.

        The groups have ended, the whole of them.
        """
        if not self.config.filter_groups:
            return np.ones(len(tickets), bool)
        distinct, at = np.unique(tickets, return_inverse=True)
        successes = [[bool(self.rollouts.about(member, "success")) for member in self._group(ticket)] for ticket in distinct.tolist()]
        return np.array([any(group) and not all(group) for group in successes], bool)[at]

    def of(self, tickets: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """The advantages, normalised and clipped, and the value targets at (ticket, row) pairs: float64 [n] each.

        The episodes have ended, and where groups are compared the whole of their groups: the streamer sees to it.
        """
        places = tickets - self._tickets.start
        for place in self._due(places):
            self._credit(self._tickets[place])
        advantages = self._advantages[places, rows]
        if self.config.normalise == "running" and self.statistics.has_values:
            advantages = self.statistics.normalise(advantages)
        return advantages.clip(-self.config.advantage_clip, self.config.advantage_clip), self._targets[places, rows]

    def finish(self) -> dict[str, float]:
        """Absorb what was learned from into the statistics. Returns the update's metrics. No rank reads the update's episodes after that."""
        seen = np.flatnonzero(self._known)
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

    def _due(self, places: NDArray[np.int64]) -> list[int]:
        """The tickets, or first tickets of the groups, that `places` are of and nothing is known of yet; counted within the update."""
        together = self.config.group_size if self.config.compares_groups else 1
        due: list[int] = np.unique(places[~self._known[places]] // together * together).tolist()
        if self.importance is not None:  # the policy is asked then, by all ranks together: whoever has fewer asks for one again
            due += [int(places[0])] * (self.ranks.largest(len(due)) - len(due))
        return due

    def _credit(self, ticket: int) -> None:
        """Find the numbers of an episode, or of its whole group where that is compared."""
        match self.config.advantage:
            case "gae":
                self._fill(ticket, *self._by_critic(ticket))
            case "reinforce++":
                returns = returns_to_go(*self._rewards(ticket))
                self._fill(ticket, returns, returns)
            case "grpo" | "rloo":
                self._compare(self._group(ticket))

    def _by_critic(self, ticket: int) -> tuple[Floats, Floats]:
        """GAE or V-trace, from the values of the policy that acted: what a time limit cut off has one of those, but no decision to be evaluated again with."""
        config = self.config
        rewards, discounts = self._rewards(ticket)
        values = self.rollouts.rows(ticket, "value")[: len(rewards) + 1]
        ended = bool(self.rollouts.about(ticket, "terminated")) or not config.bootstrap
        after = 0.0 if ended else float(values[-1])
        if self.importance is not None:
            ratios, correction = self.importance(ticket), config.correction
            return vtrace(rewards, values[:-1], after, ratios, discounts, config.lam, correction.cap, correction.trace_cap)
        return gae(rewards, values[:-1], after, discounts, config.lam)

    def _compare(self, group: range) -> None:
        """GRPO or RLOO. The targets, which no critic learns, are the undiscounted returns."""
        config = self.config
        rewards, firsts = zip(*map(self._compared, group), strict=True)
        advantages = grpo(rewards, scale=config.normalise == "group", leave_one_out=config.leave_one_out or config.advantage == "rloo")
        for ticket, own, of_rewards, first in zip(group, rewards, advantages, firsts, strict=True):
            self._fill(ticket, of_rewards[first], np.full(len(first), own.sum()))

    def _compared(self, ticket: int) -> tuple[Floats, NDArray[np.int64]]:
        """The rewards of an episode that its group compares, and which of them each decision's advantage begins with: [T]."""
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

    def _fill(self, ticket: int, advantages: Floats, targets: Floats) -> None:
        place = ticket - self._tickets.start
        self._advantages[place, : len(advantages)] = advantages
        self._targets[place, : len(targets)] = targets
        self._known[place] = True
