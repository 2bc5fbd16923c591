"""A simulator that is delayed on purpose (`simulator.delay`), and the delays of each ticket.

Invariant: the settings, the ticket and the number of the step decide a delay, or the place of the shard does. So it is the same in every mode, in every
process, after every rerun, for every length of a chunk, and on the virtual clock.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rlvla3.config.delay import DelayConfig
from rlvla3.simulators.base import RunningSimulator
from rlvla3.types import Observation, Outcome, Ticket


class ShardDelays:
    """The delays of one shard. always: seconds that are added to each of its steps (DelayConfig.of_shards)."""

    def __init__(self, config: DelayConfig, always: float) -> None:
        self._config, self._always = config, always
        self._draws: dict[int, random.Random] = {}
        """Of each slot, for the ticket that it runs."""

    def reset(self, slot: int, ticket: Ticket) -> float:
        """Seconds by which the reset of `slot` is delayed."""
        self._draws[slot] = draws = random.Random(f"{self._config.seed} {ticket.purpose.value} {ticket.index}")
        return self._config.reset.quantile(draws.random())

    def step(self, executed: Mapping[int, int]) -> float:
        """Seconds by which a chunk is delayed. executed: how many steps each slot has made. In each step, all slots wait for the slowest one."""
        longest, each = max(executed.values(), default=0), self._config.step
        delays = [0.0] * longest
        if not each.is_none:
            for slot, steps in executed.items():
                for number in range(steps):
                    delays[number] = max(delays[number], each.quantile(self._draws[slot].random()))
        return sum(delays) + longest * self._always


class DelayedSimulator:
    """`simulator`, whose calls take longer by the delays of its shard. A chunk sleeps once, for all of its steps."""

    def __init__(self, simulator: RunningSimulator, delays: ShardDelays) -> None:
        self.simulator, self.spaces, self.slots = simulator, simulator.spaces, simulator.slots
        self._delays = delays

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        observation = self.simulator.reset(slot, ticket)
        time.sleep(self._delays.reset(slot, ticket))
        return observation

    def step(self, chunks: Mapping[int, NDArray[np.float32] | None]) -> dict[int, Outcome]:
        outcomes = self.simulator.step(chunks)
        time.sleep(self._delays.step({slot: len(outcome.rewards) for slot, outcome in outcomes.items()}))
        return outcomes

    def close(self) -> None:
        self.simulator.close()
