"""Which simulator and which task each group of tickets has: they take turns, in proportion to their weights.

The turn depends only on the number of the group. So a ticket has the same task in every mode and after every rerun. Turns are even: of the first n groups,
every simulator has its share to within one group, for any n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


class Rotation:
    """Numbers 0 to n - 1, each `weights[i]` times a round, as evenly as can be: smooth weighted round-robin (nginx, commit 52327e0627).

    `at(turn)` returns whose turn it is, and how many turns it has had before.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        common = math.gcd(*weights)
        self._weights = [weight // common for weight in weights]
        self._round: list[tuple[int, int]] = []
        credit, turns = [0] * len(weights), [0] * len(weights)
        for _ in range(sum(self._weights)):
            credit = [have + weight for have, weight in zip(credit, self._weights, strict=True)]
            chosen = credit.index(max(credit))
            credit[chosen] -= sum(self._weights)
            self._round.append((chosen, turns[chosen]))
            turns[chosen] += 1

    def counts(self, turns: int) -> list[int]:
        """How many of the first `turns` turns each has."""
        rounds, rest = divmod(turns, len(self._round))
        counts = [rounds * weight for weight in self._weights]
        for chosen, _ in self._round[:rest]:
            counts[chosen] += 1
        return counts

    def at(self, turn: int) -> tuple[int, int]:
        rounds, place = divmod(turn, len(self._round))
        chosen, before = self._round[place]
        return chosen, rounds * self._weights[chosen] + before


@dataclass(frozen=True)
class SimulatorShare:
    """The part of one simulator in a mix. weights: of its tasks. weight: of the simulator among the others."""

    tasks: tuple[str, ...]
    weights: tuple[int, ...]
    weight: int = 1

    @cached_property
    def rotation(self) -> Rotation:
        return Rotation(self.weights)


@dataclass(frozen=True)
class Mix:
    """The simulators of a run, by their numbers."""

    shares: tuple[SimulatorShare, ...]

    @classmethod
    def of(cls, *tasks: str) -> Mix:
        """One simulator, whose tasks weigh the same."""
        return cls((SimulatorShare(tasks, (1,) * len(tasks)),))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(task for share in self.shares for task in share.tasks)

    @cached_property
    def rotation(self) -> Rotation:
        return Rotation([share.weight for share in self.shares])

    def without_turn(self, groups: int) -> list[str]:
        """The tasks that none of the first `groups` groups has."""
        turns = self.rotation.counts(groups)
        had = {share.tasks[chosen] for share, n in zip(self.shares, turns, strict=True) for chosen, count in enumerate(share.rotation.counts(n)) if count}
        return [task for task in self.tasks if task not in had]

    def even(self) -> Mix:
        """The same tasks, each as often as every other one."""
        return Mix(tuple(SimulatorShare(share.tasks, (1,) * len(share.tasks), len(share.tasks)) for share in self.shares))

    def simulator(self, group: int) -> int:
        """The number of the simulator that runs a group."""
        return self.rotation.at(group)[0]

    def task(self, group: int) -> str:
        return self.turn(group)[0]

    def turn(self, group: int) -> tuple[str, int]:
        """The task of a group, and how many groups before it have the same task."""
        simulator, turn = self.rotation.at(group)
        share = self.shares[simulator]
        task, before = share.rotation.at(turn)
        return share.tasks[task], before
