"""What a generator does for one batch beside the network, part by part: how long the arithmetic waits for Python and memory.

One process has a data plane, one generator and a shard for each decision of a batch. The shards ask, the generator decides, and the answers wake the shards.
There is no network: its decisions are zeros that are there already. In every second batch the generator's engine works as it does in a run, and is measured as
a whole. In the others its parts follow one another, and are measured one by one.

The frames are not in the processor's cache, as they would not be if other processes had just written them: every row is read once in a round, and a round is
larger than the cache. CPU time is what counts, as other processes on the machine do not add to it. Wall time stands beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from rlvla3.inference.actor import Actor
from rlvla3.links.data_plane import DataPlane, GeneratorPort, ShardPort
from rlvla3.links.rollouts import Episode, RolloutSpec
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.observability.figures import write_figures
from rlvla3.observability.meter import MeterBoard
from rlvla3.policies.base import Decisions, Evaluation, Observations, Policy
from rlvla3.policies.conversion import arrays_from, observations_from
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.options import MiniVLAOptions
from rlvla3.runtimes.workers.policy_engine import DataPlanePolicyEngine
from rlvla3.scheduling.limits import FixedLimits
from rlvla3.scheduling.sharding import Sharding, lay_out
from rlvla3.training.offload import Residence
from rlvla3.types import ActionSpace, Observation, Outcome, Spaces, Ticket, observation_layout

CHUNK, ACTIONS, STATE = 5, 7, 8
DECISIONS = 12
"""Decisions of an episode."""

Made = TypeVar("Made")


@dataclass
class Parts:
    """Seconds of each part, one entry for each batch. cpu: of this thread."""

    cpu: dict[str, list[float]] = field(default_factory=dict)
    wall: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, make: Callable[[], Made]) -> Made:
        """What `make` returns. Its time is added to the part `name`."""
        wall, cpu = time.perf_counter(), time.thread_time()
        made = make()
        self.cpu.setdefault(name, []).append(time.thread_time() - cpu)
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        return made

    def figures(self) -> dict[str, dict[str, float]]:
        """The smallest and the median time of each part, in ms."""
        return {name: _summary(self.cpu[name], self.wall[name]) for name in self.cpu}


def _summary(cpu: Sequence[float], wall: Sequence[float]) -> dict[str, float]:
    return {f"{kind}_{name}_ms": 1000 * of(times) for kind, times in (("cpu", cpu), ("wall", wall)) for name, of in (("min", min), ("median", median))}


class NoNetwork(Policy):
    """A policy whose decisions are there already."""

    def __init__(self, spaces: Spaces, options: MiniVLAOptions, decisions: Decisions) -> None:
        super().__init__(spaces, CHUNK, options)
        self._decisions = decisions

    def act(self, observations: Observations, noise: Tensor, explore: Tensor) -> Decisions:
        return self._decisions

    def evaluate(self, observations: Observations, actions: Tensor, trace: Mapping[str, Tensor]) -> Evaluation:
        raise NotImplementedError("nobody learns from these decisions")

    def value_of(self, features: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError("nobody learns from these decisions")

    def critic_parameters(self) -> list[torch.nn.Parameter]:
        return []


class Host:
    """A data plane whose shards ask for one decision each."""

    def __init__(self, cameras: int, size: int, batch: int) -> None:
        self.spaces = Spaces({f"camera {n}": (size, size, 3) for n in range(cameras)}, STATE, ActionSpace("continuous", ACTIONS), CHUNK * DECISIONS)
        options, shards, cpu = MiniVLAOptions(), lay_out([Sharding(batch, 1)], generators=1), torch.device("cpu")
        self.noise_shape, trace = options.noise_shape(self.spaces, CHUNK), options.trace(self.spaces, CHUNK)
        self.plane = DataPlane(RolloutSpec(self.spaces, CHUNK, trace, capacity=batch), shards, generators=1)
        board = MeterBoard(["generator", *(f"shard {shard.number}" for shard in shards)])
        meter = board.meter("generator")
        self.generator = GeneratorPort(self.plane, 0, FixedLimits(None, float("inf")), meter)
        self.shards = [ShardPort(self.plane, shard.number, board.meter(f"shard {shard.number}")) for shard in shards]
        self.plane.set_running([batch])
        chunk = torch.zeros(batch, CHUNK, ACTIONS)
        self.decisions = Decisions(chunk, chunk, torch.zeros(batch), {name: torch.zeros(batch, *entry.shape) for name, entry in trace.items()})
        policy = NoNetwork(self.spaces, options, self.decisions)
        weights = WeightPlane(WeightMemory(), policy.published())
        self.engine = DataPlanePolicyEngine(Actor(policy, cpu, "eager", batch), weights, self.plane.rollouts, 0, Residence(cpu), meter, None)
        self.frames = {name: np.zeros((batch, *entry.shape), entry.dtype) for name, entry in observation_layout(self.spaces).items()}
        self.noise = np.zeros((batch, *self.noise_shape), np.float32)
        self._shown = Observation({camera: np.ones(shape, np.uint8) for camera, shape in self.spaces.cameras.items()}, np.zeros(STATE, np.float32), "reach")

    def begin(self, first: int) -> list[Episode]:
        """The episodes of the tickets from `first` on, one for each shard."""
        return [shard.begin(Ticket(first + number, "reach", number, number), self._shown) for number, shard in enumerate(self.shards)]

    async def decide(self, episodes: Sequence[Episode], work: Callable[[], None]) -> None:
        """One batch: all shards ask, and the generator does its `work`."""
        asking = [asyncio.ensure_future(shard.decide({0: episode})) for shard, episode in zip(self.shards, episodes, strict=True)]
        await asyncio.sleep(0)  # now all of them have asked
        work()
        await asyncio.gather(*asking)

    def as_a_whole(self) -> None:
        """What the generate loop does for a batch on a CPU."""
        batch = _at_once(self.generator.batch())
        _at_once(self.engine.infer(batch))
        self.generator.answer(batch)

    def part_by_part(self, parts: Parts) -> None:
        rollouts, generator = self.plane.rollouts, self.generator
        batch = parts.add("requests", lambda: _at_once(generator.batch()))
        arrays = parts.add("gather", lambda: rollouts.gather(batch.tickets, batch.rows, rollouts.observation_names, self.frames))
        instructions = parts.add("instructions", lambda: rollouts.instructions(batch.tickets, batch.rows))
        parts.add("tensors", lambda: observations_from(arrays, instructions))
        parts.add("noise", lambda: torch.from_numpy(decision_noise(0, batch.keys(), self.noise_shape, self.noise)))
        decided = parts.add("arrays", lambda: arrays_from(self.decisions, 0))
        parts.add("scatter", lambda: rollouts.scatter(batch.tickets, batch.rows, decided, batch.kept))
        parts.add("answer", lambda: generator.answer(batch))

    def record(self, episodes: Sequence[Episode], show: bool) -> None:
        """Go on to the next row. show: also write the frames of the next observation."""
        for episode in episodes:
            episode.record(Outcome(episode.actions, np.zeros(CHUNK, np.float32), self._shown if show else None))


def _at_once(coroutine: Coroutine[Any, Any, Made]) -> Made:
    """What a coroutine returns that need not wait: it ends at its first step."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        made: Made = ended.value
        return made
    raise AssertionError("all shards have asked, so nothing is waited for")


def measure(cameras: int, size: int, batch: int, batches: int) -> dict[str, Any]:
    """The figures of `batches` batches of each kind, after one round that writes all frames."""
    torch.set_num_threads(1)
    host, measured = Host(cameras, size, batch), Parts()

    async def rounds() -> None:
        for number in range(1 + -(-2 * batches // DECISIONS)):
            episodes, parts = host.begin(number * batch), measured if number else Parts()
            for row in range(DECISIONS):
                whole = (lambda: parts.add("whole", host.as_a_whole)) if row % 2 else (lambda: host.part_by_part(parts))  # noqa: B023
                await host.decide(episodes, whole)
                host.record(episodes, show=not number)

    asyncio.run(rounds())
    found = measured.figures()
    copied = sum(array.nbytes for array in host.frames.values())
    speed = copied / found["gather"]["cpu_median_ms"] / 1e6
    return {"cameras": cameras, "size": size, "batch": batch, "copied_bytes": copied, "gather_gb_per_second": speed, "parts": found}


def main(figures: Path, cameras: int, size: int, batch: int, batches: int) -> None:
    """Measure, print a table, and write the figures to a JSON file."""
    found = measure(cameras, size, batch, batches)
    print(f"ms for a batch of {batch}, {cameras} cameras of {size} px:  CPU min  median   wall min  median")
    for name, times in found["parts"].items():
        print(f"{name:50s}" + "".join(f"{time:9.3f}" for time in times.values()))
    print(f"gather copies {found['copied_bytes'] / 1e6:.1f} MB at {found['gather_gb_per_second']:.1f} GB/s")
    write_figures(found, figures)
