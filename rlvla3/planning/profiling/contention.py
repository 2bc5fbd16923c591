"""How much work a host's cores do a second with several busy at once: hardware threads of one core, shared caches and memory make it less than their number.

As many processes as are to be busy each do the work of a whole run by themselves, simulating, inferring and training in the recipe's proportions, and wait for
nobody. What a round of it takes of CPU time, beside what it takes alone, is how much they slow each other: measured at full load, with the recipe's own work.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlvla3.config import Recipe
from rlvla3.errors import WorkerError
from rlvla3.links.data_plane import Batch
from rlvla3.links.rollouts import Rollouts
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.observability.meter import MeterBoard
from rlvla3.parts import rollout_spec, ticket_book
from rlvla3.planning.profiling.figures import doublings, speeds
from rlvla3.policies.registry import make_policy
from rlvla3.runtimes.processes.control import Control, Stopped
from rlvla3.runtimes.processes.messages import Failed, Ready
from rlvla3.runtimes.processes.process import WorkerProcess
from rlvla3.runtimes.supervision.shard_supervisor import START_TIMEOUT_S
from rlvla3.runtimes.workers.device import choose_device
from rlvla3.runtimes.workers.generator_worker import DataPlanePolicyEngine
from rlvla3.simulators.registry import describe_simulator, make_simulator
from rlvla3.training.learner import Learner
from rlvla3.training.offload import Residence
from rlvla3.types import MicroBatch

PATIENCE_S = 5.0
TOGETHER = 8
"""Decisions that an inference is of, where there are as many slots."""


@dataclass(frozen=True, slots=True)
class Work:
    """Coordinator to load: make rounds until then, on the monotonic clock; at least one."""

    until: float


@dataclass(frozen=True, slots=True)
class Worked:
    """Load to coordinator: CPU seconds of a round."""

    seconds: float


def core_speeds(recipe: Recipe, folder: Path, seconds: float, simulates: bool, notify: Callable[[str], None]) -> list[float]:
    """HostProfile.cores: work a second with 1, 2, ... up to all cores busy, in about `seconds` and what the processes take to start.

    simulates: whether the simulator works, rather than sleep; its share of a round is done then.
    """
    # As all workers: on one thread each. Spawned processes read it when they import torch.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    counts = list(doublings(len(os.sched_getaffinity(0))))
    measured = []
    for count in counts:
        notify(f"{count} of {counts[-1]} cores busy")
        measured.append((count, asyncio.run(_busy(count, recipe, folder, seconds / len(counts), simulates))))
    return speeds(measured)


async def _busy(count: int, recipe: Recipe, folder: Path, seconds: float, simulates: bool) -> float:
    """CPU seconds of a round with `count` processes at it, in the mean."""
    folder.mkdir(exist_ok=True)
    body = "rlvla3.planning.profiling.contention:run_load"
    workers = [WorkerProcess(f"load {number}", body, recipe, simulates, log=folder / f"load-{number}.log") for number in range(count)]
    try:
        for worker in workers:
            await _answer(worker, START_TIMEOUT_S)  # Ready
        for worker in workers:
            worker.control.send(Work(until=time.monotonic() + seconds))
        return fmean([(await _answer(worker, START_TIMEOUT_S + seconds)).seconds for worker in workers])
    finally:
        await asyncio.gather(*(worker.stop(PATIENCE_S) for worker in workers))


async def _answer(worker: WorkerProcess, limit_s: float) -> Any:
    """A load's next message. Raises WorkerError where it fails or says nothing."""
    try:
        message = await asyncio.wait_for(worker.control.receive(), limit_s)
    except Stopped:
        raise WorkerError(f"{worker.name} ended by itself. The last it printed:\n{worker.last_words()}") from None
    except TimeoutError:
        raise WorkerError(f"{worker.name} has not answered for {limit_s:.0f} s. The last it printed:\n{worker.last_words()}") from None
    if isinstance(message, Failed):
        raise WorkerError(message.message if message.explained else f"{worker.name} failed with {message.kind}: {message.message}\n{message.traceback}")
    return message


async def run_load(control: Control, recipe: Recipe, simulates: bool) -> None:
    """Build a load, say so, and work when told to."""
    load = Load(recipe, simulates)
    try:
        await load.begin()
        control.send(Ready())
        work: Work = await control.receive()
        rounds, began = 0, time.process_time()
        while not rounds or time.monotonic() < work.until:
            await load.round()
            rounds, spent = rounds + 1, time.process_time() - began - load.aside
        control.send(Worked(spent / rounds))
        await control.receive()  # Stop
    finally:
        load.simulator.close()


class Load:
    """One process that does all that a run does, by itself.

    A round is a micro-batch: as many decisions are simulated and inferred as it has, divided by the epochs that they would be trained on. What is trained on is
    a group of episodes that stay; what is simulated goes into a block beside them. aside: CPU seconds of resets, of which rounds have unequal numbers.
    """

    def __init__(self, recipe: Recipe, simulates: bool) -> None:
        torch.set_num_threads(recipe.training.threads)
        torch.manual_seed(recipe.seed)
        spaces = describe_simulator(recipe.simulator)
        self.tickets = range(recipe.algorithm.group_size)  # a whole group, or there are no advantages
        self.rollouts = Rollouts(rollout_spec(recipe, len(self.tickets) + 1))
        self.simulator = make_simulator(recipe.simulator, recipe.policy.chunk)
        self.learner = Learner(make_policy(recipe.policy, spaces), recipe, self.rollouts, choose_device(recipe.training.device, "training.device"))
        device = choose_device(recipe.engine.device, "engine.device")
        policy = make_policy(recipe.policy, spaces).to(device).eval()
        weights, meter = WeightPlane(WeightMemory(), policy.published()), MeterBoard(["load"]).meter("load")
        self.engine = DataPlanePolicyEngine(policy, weights, self.rollouts, recipe.seed, Residence(device), meter, None)
        self.book = ticket_book(recipe)
        self.training, self.simulates = recipe.training, simulates
        self.together = min(TOGETHER, recipe.simulator.shards * recipe.simulator.slots)
        self.update, self.aside = 0, 0.0

    async def begin(self) -> None:
        """Run the episodes that are trained on, and updates until they cost what they always will."""
        for ticket in self.tickets:
            self._reset(ticket)
            while not self.episode.done:
                await self._infer(np.array([[ticket, self.episode.row]]))
                self._step(self.episode.actions)
            await self._infer(np.array([[ticket, self.episode.row]]))  # the value of what a time limit may have cut
        pairs = [(ticket, row) for ticket in self.tickets for row in range(self.rollouts.decisions(ticket))]
        self.pairs = np.resize(np.array(pairs), (self.training.micro_batch, 2))
        for _ in range(1 + self.training.critic.replay):
            self._train()
        self._reset(self.tickets.stop)

    async def round(self) -> None:
        decisions = self.pairs[: max(len(self.pairs) // self.training.epochs, 1)]
        for first in range(0, len(decisions), self.together):
            picked = decisions[first : first + self.together]
            await self._infer(picked)
            if self.simulates:
                self._simulate(picked)
        self._train()

    def _simulate(self, pairs: NDArray[np.int64]) -> None:
        """Go on with what was done in some decisions, in an episode of its own."""
        for ticket, row in pairs.tolist():
            if self.episode.done:
                began = time.process_time()
                self._reset(self.tickets.stop)
                self.aside += time.process_time() - began
            self._step(self.rollouts.rows(ticket, "actions")[row])

    def _train(self) -> None:
        self.learner.begin_update(self.update, self.tickets)
        self.learner.accumulate(MicroBatch(self.pairs[:, 0], self.pairs[:, 1], epoch=0, step=0, closes_step=True))
        self.learner.step()
        self.learner.finish_update()
        self.update += 1

    async def _infer(self, pairs: NDArray[np.int64]) -> None:
        tickets, rows = pairs.T
        await self.engine.infer(Batch(tickets, rows, np.ones(len(pairs), np.bool_), (0,) * len(pairs)))

    def _reset(self, ticket: int) -> None:
        drawn = self.book.ticket(ticket)
        self.episode = self.rollouts.begin(drawn, self.simulator.reset(0, drawn))

    def _step(self, chunk: NDArray[np.float32]) -> None:
        self.episode.record(self.simulator.step({0: chunk})[0])
