"""What each decision of an update earned: its advantage and the value it should have had, found once an episode from what was recorded when it was acted.

Invariants:
- an episode's numbers depend on its own record (GRPO: its group's), and on statistics of past updates; never on which other episodes have arrived (law 3);
- statistics change at the end of an update only, from all of its decisions in ticket order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.algorithms.advantages import Floats, RunningStatistics, explained_variance, gae, grpo
from rlvla3.config import AlgorithmConfig
from rlvla3.links.rollouts import Rollouts


class Credit:
    """Advantages and value targets of one update after the other.

    credit.begin(tickets=range(64, 128))
    advantages, targets = credit.of(micro_batch.tickets, micro_batch.rows)
    metrics = credit.finish()
    """

    def __init__(self, config: AlgorithmConfig, rollouts: Rollouts) -> None:
        self.config, self.rollouts = config, rollouts
        self.statistics = RunningStatistics()

    @property
    def ready(self) -> bool:
        """Whether advantages are normalised as the recipe asks: not before running statistics have seen an update."""
        return self.config.normalise != "running" or self.statistics.known

    def begin(self, tickets: range) -> None:
        self._tickets = tickets
        self._known = np.zeros(len(tickets), bool)
        # [tickets of the update, rows of a block], nan where there is no decision (yet).
        self._advantages, self._targets = np.full((2, len(tickets), self.rollouts.spec.rows), np.nan)

    def of(self, tickets: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """The advantages, normalised and clipped, and the value targets at (ticket, row) pairs: float64 [n] each.

        The episodes have ended, and with GRPO the whole of their groups: the streamer sees to it.
        """
        places = tickets - self._tickets.start
        for place in np.unique(places[~self._known[places]]):
            if not self._known[place]:  # an earlier one of its group may have brought it
                self._credit(int(place))
        advantages = self._advantages[places, rows]
        if self.config.normalise == "running" and self.statistics.known:
            advantages = self.statistics.normalise(advantages)
        return advantages.clip(-self.config.advantage_clip, self.config.advantage_clip), self._targets[places, rows]

    def finish(self) -> dict[str, float]:
        """Absorb the update into the statistics. Returns its metrics."""
        seen = ~np.isnan(self._advantages)
        advantages, targets = self._advantages[seen], self._targets[seen]
        if not len(advantages):
            return {}
        self.statistics.absorb(advantages)
        metrics = {"advantage_mean": float(advantages.mean()), "advantage_std": float(advantages.std())}
        if self.config.advantage == "gae":
            metrics["explained_variance"] = explained_variance(targets - advantages, targets)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {"statistics": self.statistics.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.statistics.load_state_dict(state["statistics"])

    def _credit(self, place: int) -> None:
        if self.config.advantage == "gae":
            self._fill(place, *self._by_gae(self._tickets[place]))
            return
        first = place // self.config.group_size * self.config.group_size
        group = range(first, first + self.config.group_size)
        returns = np.array([self.rollouts.episode(self._tickets[member], "rewards").sum(dtype=np.float64) for member in group])
        for member, advantage, return_ in zip(group, grpo(returns, scale=self.config.normalise == "group"), returns, strict=True):
            decisions = self.rollouts.decisions(self._tickets[member])
            self._fill(member, np.full(decisions, advantage), np.full(decisions, return_))

    def _by_gae(self, ticket: int) -> tuple[Floats, Floats]:
        decisions = self.rollouts.decisions(ticket)
        values = self.rollouts.rows(ticket, "value")[: decisions + 1]
        ended = bool(self.rollouts.about(ticket, "terminated")) or not self.config.bootstrap
        rewards = self.rollouts.episode(ticket, "rewards").sum(-1, dtype=np.float64)
        return gae(rewards, values[:-1], 0.0 if ended else float(values[-1]), self.config.gamma, self.config.lam)

    def _fill(self, place: int, advantages: Floats, targets: Floats) -> None:
        self._advantages[place, : len(advantages)] = advantages
        self._targets[place, : len(targets)] = targets
        self._known[place] = True
