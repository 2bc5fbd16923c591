"""How much work a host's cores do per second when several are busy at once. Hardware threads of one core, shared caches and memory slow each other.

For each number of busy cores, so many processes run. Each does all the work of a run alone: it simulates, infers and trains in the recipe's proportions, and
waits for no other process. The CPU time of a round, compared with that of one process alone, shows how much the processes slow each other. Where a GPU infers
and trains, the cores only simulate, and so do these processes: a GPU has no room for a policy in each.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from rlvla3.config import Recipe
from rlvla3.devices import choose_device
from rlvla3.inference.actor import Actor
from rlvla3.links.data_plane import Batch
from rlvla3.links.rollouts import Rollouts
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.observability.meter import MeterBoard
from rlvla3.parts import rollout_spec, ticket_book
from rlvla3.planning.profiling.cost_fitting import core_throughputs, powers_of_two_up_to
from rlvla3.policies.registry import make_policy
from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.processes.messages import Ready
from rlvla3.runtimes.processes.process import START_TIMEOUT_S, start_worker
from rlvla3.runtimes.processes.rounds import RoundSeconds, WorkUntil, answer_of
from rlvla3.runtimes.workers.policy_engine import DataPlanePolicyEngine
from rlvla3.simulators.common_spaces import common_spaces
from rlvla3.simulators.registry import make_simulator
from rlvla3.training.learner import Learner
from rlvla3.training.offload import Residence
from rlvla3.types import MicroBatch

STOP_TIMEOUT_S = 5.0
INFERENCE_BATCH = 8
"""Decisions per inference, if the recipe has so many slots."""


def core_speeds(recipe: Recipe, folder: Path, seconds: float, simulates: bool, notify: Callable[[str], None]) -> list[float]:
    """HostProfile.cores: work per second with 1, 2, ... up to all cores busy. It takes about `seconds`, and the time to start the processes.

    simulates: whether the simulator uses the CPU and does not only sleep. If so, a round includes simulation.
    """
    counts = list(powers_of_two_up_to(len(os.sched_getaffinity(0))))
    if on_gpu(recipe) and not simulates:  # nothing keeps the cores busy
        return [float(count) for count in range(1, counts[-1] + 1)]
    # Like every worker, each process uses one thread. Spawned processes read these variables when they import torch.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    measured = []
    for count in counts:
        notify(f"{count} of {counts[-1]} cores busy")
        measured.append((count, asyncio.run(_busy(count, recipe, folder, seconds / len(counts), simulates))))
    return core_throughputs(measured)


async def _busy(count: int, recipe: Recipe, folder: Path, seconds: float, simulates: bool) -> float:
    """The mean CPU seconds of a round when `count` processes work at once."""
    folder.mkdir(exist_ok=True)
    body = "rlvla3.planning.profiling.contention:run_workload"
    workers = [start_worker(f"load {number}", body, recipe, simulates, log=folder / f"load-{number}.log") for number in range(count)]
    try:
        for worker in workers:
            await answer_of(worker, START_TIMEOUT_S)  # Ready
        for worker in workers:
            worker.control.send(WorkUntil(until=time.monotonic() + seconds))
        return fmean([(await answer_of(worker, START_TIMEOUT_S + seconds)).seconds for worker in workers])
    finally:
        await asyncio.gather(*(worker.stop(STOP_TIMEOUT_S) for worker in workers))


async def run_workload(control: Control, recipe: Recipe, simulates: bool) -> None:
    """The body of a workload's process: build it, report that it is ready, and work when told to."""
    load = SimulatorLoad(recipe) if on_gpu(recipe) else Workload(recipe, simulates)
    try:
        await load.begin()
        control.send(Ready())
        work: WorkUntil = await control.receive()
        rounds, began = 0, time.process_time() - load.reset_seconds
        while not rounds or time.monotonic() < work.until:
            await load.round()
            rounds, spent = rounds + 1, time.process_time() - began - load.reset_seconds
        control.send(RoundSeconds(spent / rounds))  # of CPU
        await control.receive()  # Stop
    finally:
        load.simulator.close()


def on_gpu(recipe: Recipe) -> bool:
    """Whether both inference and training are on a GPU of this machine."""
    devices = (choose_device(recipe.engine.device, "engine.device"), choose_device(recipe.training.device, "training.device"))
    return all(device.type == "cuda" for device in devices)


class SimulatorLoad:
    """The work of a run's cores in one process where a GPU does the rest. A round simulates as many chunks as a `Workload`'s, with random actions.

    reset_seconds: CPU seconds of resets. They are not counted, because rounds have unequal numbers of resets.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.simulator = make_simulator(recipe.simulator, recipe.policy.chunk)
        spaces, random = common_spaces(recipe), np.random.default_rng(recipe.seed)
        self.book, self.reset_seconds, self.done = ticket_book(recipe, spaces), 0.0, True
        space, self.chunks = spaces.action, max(recipe.training.micro_batch // recipe.training.epochs, 1)
        shape = (self.chunks, recipe.policy.chunk, space.size)
        drawn = random.integers(0, space.choices, shape) if space.kind == "discrete" else random.uniform(space.low, space.high, shape)
        self.actions: NDArray[np.float32] = drawn.astype(np.float32)

    async def begin(self) -> None:
        """Simulate a first round: it loads what later ones find loaded."""
        await self.round()

    async def round(self) -> None:
        for actions in self.actions:
            if self.done:
                began = time.process_time()
                self.simulator.reset(0, self.book.ticket(0))
                self.reset_seconds += time.process_time() - began
            self.done = self.simulator.step({0: actions})[0].done


class Workload:
    """All the work of a run in one process.

    A round trains on one micro-batch. It also simulates and infers the decisions of that micro-batch, divided by the number of epochs. Training always uses the
    same group of episodes; the simulated episode has a row of its own beside them. reset_seconds: CPU seconds of resets. They are not counted, because rounds
    have unequal numbers of resets.
    """

    def __init__(self, recipe: Recipe, simulates: bool) -> None:
        torch.set_num_threads(recipe.training.threads)
        torch.manual_seed(recipe.seed)
        spaces = common_spaces(recipe)
        self.tickets = range(recipe.algorithm.group_size)  # a whole group, because advantages need one
        self.rollouts = Rollouts(rollout_spec(recipe, len(self.tickets) + 1))
        self.simulator = make_simulator(recipe.simulator, recipe.policy.chunk)
        self.learner = Learner(make_policy(recipe.policy, spaces), recipe, self.rollouts, choose_device(recipe.training.device, "training.device"))
        device = choose_device(recipe.engine.device, "engine.device")
        self.inference_batch = min(INFERENCE_BATCH, recipe.simulator.shards * recipe.simulator.slots)
        policy = make_policy(recipe.policy, spaces).to(device).eval()
        policy.compute_in(recipe.training.precision, device)
        weights, meter = WeightPlane(WeightMemory(), policy.published()), MeterBoard(["load"]).meter("load")
        self.engine = DataPlanePolicyEngine(
            Actor(policy, device, "eager", self.inference_batch), weights, self.rollouts, recipe.seed, Residence(device), meter, None
        )
        self.book = ticket_book(recipe, spaces)
        self.training, self.simulates = recipe.training, simulates
        self.update, self.reset_seconds = 0, 0.0

    async def begin(self) -> None:
        """Run the episodes to train on, and make updates until their cost no longer changes."""
        for ticket in self.tickets:
            self._reset(ticket)
            while not self.episode.done:
                await self._infer(np.array([[ticket, self.episode.row]]))
                self._step(self.episode.actions)
            await self._infer(np.array([[ticket, self.episode.row]]))  # the value of the last observation, which a time limit needs
        pairs = [(ticket, row) for ticket in self.tickets for row in range(self.rollouts.decisions(ticket))]
        self.pairs = np.resize(np.array(pairs), (self.training.micro_batch, 2))
        for _ in range(1 + self.training.critic.replay):
            self._train()
        self._reset(self.tickets.stop)

    async def round(self) -> None:
        decisions = self.pairs[: max(len(self.pairs) // self.training.epochs, 1)]
        for first in range(0, len(decisions), self.inference_batch):
            batch = decisions[first : first + self.inference_batch]
            await self._infer(batch)
            if self.simulates:
                self._simulate(batch)
        self._train()

    def _simulate(self, pairs: NDArray[np.int64]) -> None:
        """Step the simulator with the actions of some decisions, in an episode of its own."""
        for ticket, row in pairs.tolist():
            if self.episode.done:
                began = time.process_time()
                self._reset(self.tickets.stop)
                self.reset_seconds += time.process_time() - began
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
        issued = self.book.ticket(ticket)
        self.episode = self.rollouts.begin(issued, self.simulator.reset(0, issued))

    def _step(self, chunk: NDArray[np.float32]) -> None:
        self.episode.record(self.simulator.step({0: chunk})[0])
