"""What the policy saw in an update, counted for its running statistics (policies/running_normalisation.py).

Invariants:
- the statistics change in `finish` alone. They use all decisions of the update, in ticket order, on whichever rank they were;
- all ranks count the same numbers in the same order. So their statistics have the same bits, whatever the number of ranks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlvla3.links.rollouts import Rollouts
from rlvla3.policies.base import Observations, Policy
from rlvla3.policies.running_normalisation import Moments
from rlvla3.training.ranks import SINGLE_RANK, Ranks


class SeenInputs:
    """Counts the inputs of one update after another.

    seen.begin()
    seen.see(micro_batch.tickets)       # of the update's first epoch
    seen.finish()
    """

    def __init__(self, policy: Policy, rollouts: Rollouts, ranks: Ranks = SINGLE_RANK) -> None:
        self._policy, self._rollouts, self._ranks = policy, rollouts, ranks
        self._tickets: set[int] = set()

    def begin(self) -> None:
        self._tickets = set()

    def see(self, tickets: NDArray[np.int64]) -> None:
        """These tickets are this rank's. Each rank has the whole episode of a ticket."""
        self._tickets.update(tickets.tolist())

    @property
    def counting(self) -> bool:
        """Whether `finish` will change what the policy computes. The same on all ranks."""
        return any(scale.counts for scale in self._policy.running_normalisations().values())

    def finish(self) -> None:
        """Add what was seen to the statistics. After it, no rank reads the update's episodes for them."""
        counting = {name: scale for name, scale in self._policy.running_normalisations().items() if scale.counts}
        if not counting:
            return
        own = {ticket: {name: Moments.of_rows(self._rollouts.episode(ticket, name)) for name in counting} for ticket in self._tickets}
        of_all = {ticket: moments for rank in self._ranks.gather(own) for ticket, moments in rank.items()}
        for name, scale in counting.items():
            if of_all:
                scale.add(Moments.joined(of_all[ticket][name] for ticket in sorted(of_all)))


def fit_to_demonstrations(policy: Policy, observations: Observations, actions: Tensor) -> None:
    """Set the statistics of the policy to those of demonstrations. They stay so."""
    policy.fit_normalisation(observations.state, actions)
    seen = {"state": observations.state} | {f"image.{camera}": frames for camera, frames in observations.images.items()}
    for name, scale in policy.running_normalisations().items():
        if scale.counts:  # fit_normalisation has not set it
            scale.fix(Moments.of_rows(seen[name].numpy()))
