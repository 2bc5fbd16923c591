"""A simulator process: it runs the simulate loop over the data plane of its host. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import Recipe
from rlvla3.links.data_plane import DataPlane, ShardPort
from rlvla3.loops import Chunk, EpisodeWriter, simulate
from rlvla3.observability.meter import Meter, MeterBoard
from rlvla3.parts import bootstraps
from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.processes.messages import Grant, HandIn, Ready
from rlvla3.runtimes.worker_names import shard_name
from rlvla3.simulators.base import RunningSimulator
from rlvla3.simulators.common_spaces import make_run_simulator
from rlvla3.simulators.every_step import StepsToKeep
from rlvla3.types import Finished, Observation, Outcome, Ticket

NICENESS = 10
"""Simulators are many and can use any free core. Generator and trainer are the serial parts of the pipeline, so they go first where cores are scarce. Otherwise
simulators would run up to the bound of admission, and then wait with idle cores for a trainer that they have starved.
"""


async def run_shard(control: Control, shard: int, recipe: Recipe, plane: DataPlane, board: MeterBoard, keep: StepsToKeep | None = None) -> None:
    """Build the simulator, report Ready, and run tickets until cancelled. keep: whose environment steps are kept in files."""
    meter = board.meter(shard_name(shard))
    meter.enter("start")
    os.nice(NICENESS)
    spec = plane.shards[shard]
    if spec.cores:
        os.sched_setaffinity(0, spec.cores)
    simulator = make_run_simulator(recipe, spec, plane.rollouts.spec.spaces, keep)
    try:
        port = ShardPort(plane, shard, meter)
        control.send(Ready())
        meter.enter("overhead")
        metered = MeteredSimulator(simulator, meter, plane.counts["steps"][shard : shard + 1])
        await simulate(metered, TicketChannel(control, meter, port.is_withdrawn), port, bootstraps(recipe))
    finally:
        simulator.close()


class MeteredSimulator:
    """The simulator as the loop asks for it. Its time is on the meter, and its environment steps are counted in `steps` [1]."""

    def __init__(self, simulator: RunningSimulator, meter: Meter, steps: NDArray[np.int64]) -> None:
        self.slots = simulator.slots
        self._simulator, self._meter, self._steps = simulator, meter, steps

    async def reset(self, slot: int, ticket: Ticket) -> Observation:
        with self._meter("reset"):
            return self._simulator.reset(slot, ticket)

    async def step(self, chunks: Mapping[int, Chunk]) -> Mapping[int, Outcome]:
        if not chunks:
            return {}
        with self._meter("simulate", len(chunks)):
            outcomes = self._simulator.step(chunks)
        self._steps[0] += sum(len(outcome.rewards) for outcome in outcomes.values())
        return outcomes


class TicketChannel:
    """The ledger, as a shard sees it: hand-ins go out and grants come in on the control channel. is_withdrawn: whether a ticket that it has is withdrawn."""

    def __init__(self, control: Control, meter: Meter, is_withdrawn: Callable[[Ticket], bool]) -> None:
        self._control, self._meter, self._is_withdrawn = control, meter, is_withdrawn

    async def exchange(self, finished: Sequence[Finished], running: Mapping[int, EpisodeWriter]) -> tuple[list[Ticket], dict[int, EpisodeWriter]]:
        """As the loop asks for it. Waits for the answer to a hand-in, and for a ticket if no slot runs one."""
        tickets: list[Ticket] = []
        answered = not finished
        if finished:
            self._control.send(HandIn(finished))
        with self._meter("ticket"):
            while not answered or not (running or tickets):
                grant: Grant = await self._control.receive()
                tickets += grant.tickets
                answered |= grant.answer
        for grant in self._control.arrived():
            tickets += grant.tickets
        going_on = {slot: episode for slot, episode in running.items() if not self._is_withdrawn(episode.ticket)}
        return [ticket for ticket in tickets if not self._is_withdrawn(ticket)], going_on
