"""What a generator does for one batch beside the network, part by part: how long the arithmetic waits for Python and memory.

One process has a data plane, one generator and a shard for each decision of a batch. The shards ask, the parts of the generator's work follow one another and
are measured one by one, and the answers wake the shards. There is no network: its decisions are zeros that are there already.

The frames are not in the processor's cache, as they would not be if other processes had just written them: every row is read once in a round, and a round is
larger than the cache. CPU time is what counts, as other processes on the machine do not add to it. Wall time stands beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch

from rlvla3.benchmarks.figures import write_figures
from rlvla3.links.data_plane import DataPlane, GeneratorPort, ShardPort
from rlvla3.links.rollouts import Episode, RolloutSpec
from rlvla3.observability.meter import MeterBoard
from rlvla3.policies.base import Decisions
from rlvla3.policies.conversion import arrays_from, observations_from
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.options import MiniVLAOptions
from rlvla3.scheduling.sharding import Sharding, lay_out
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
        """The smallest and the median time in ms of each part and of all together."""
        return {name: _summary(self.cpu[name], self.wall[name]) for name in self.cpu} | {"all": _summary(_sums(self.cpu), _sums(self.wall))}


def _sums(parts: Mapping[str, Sequence[float]]) -> list[float]:
    return [sum(together) for together in zip(*parts.values(), strict=True)]


def _summary(cpu: Sequence[float], wall: Sequence[float]) -> dict[str, float]:
    return {f"{kind}_{name}_ms": 1000 * of(times) for kind, times in (("cpu", cpu), ("wall", wall)) for name, of in (("min", min), ("median", median))}


class Host:
    """A data plane whose shards ask for one decision each."""

    def __init__(self, cameras: int, size: int, batch: int) -> None:
        self.spaces = Spaces({f"camera {n}": (size, size, 3) for n in range(cameras)}, STATE, ActionSpace("continuous", ACTIONS), CHUNK * DECISIONS)
        flow, shards = MiniVLAOptions().flow, lay_out([Sharding(batch, 1)], generators=1)
        self.noise_shape = flow.noise_shape(CHUNK, ACTIONS)
        self.plane = DataPlane(RolloutSpec(self.spaces, CHUNK, flow.trace(CHUNK, ACTIONS), capacity=batch), shards, generators=1)
        board = MeterBoard(["generator", *(f"shard {shard.number}" for shard in shards)])
        self.generator = GeneratorPort(self.plane, 0, None, float("inf"), board.meter("generator"))
        self.shards = [ShardPort(self.plane, shard.number, board.meter(f"shard {shard.number}")) for shard in shards]
        self.plane.set_running([batch])
        chunk = torch.zeros(batch, CHUNK, ACTIONS)
        trace = {name: torch.zeros(batch, *entry.shape) for name, entry in self.plane.rollouts.spec.trace.items()}
        self.decisions = Decisions(chunk, chunk, torch.zeros(batch), trace)
        self.frames = {name: np.zeros((batch, *entry.shape), entry.dtype) for name, entry in observation_layout(self.spaces).items()}
        self.noise = np.zeros((batch, *self.noise_shape), np.float32)
        self._shown = Observation({camera: np.ones(shape, np.uint8) for camera, shape in self.spaces.cameras.items()}, np.zeros(STATE, np.float32), "reach")

    def begin(self, first: int) -> list[Episode]:
        """The episodes of the tickets from `first` on, one for each shard."""
        return [shard.begin(Ticket(first + number, "reach", number, number), self._shown) for number, shard in enumerate(self.shards)]

    async def decide(self, episodes: Sequence[Episode], parts: Parts) -> None:
        """One batch: all shards ask, the generator answers."""
        asking = [asyncio.ensure_future(shard.decide({0: episode})) for shard, episode in zip(self.shards, episodes, strict=True)]
        await asyncio.sleep(0)  # now all of them have asked
        rollouts, generator = self.plane.rollouts, self.generator
        batch = parts.add("requests", lambda: _at_once(generator))
        arrays = parts.add("gather", lambda: rollouts.gather(batch.tickets, batch.rows, rollouts.observation_names, self.frames))
        instructions = parts.add("instructions", lambda: rollouts.instructions(batch.tickets))
        parts.add("tensors", lambda: observations_from(arrays, instructions))
        parts.add("noise", lambda: torch.from_numpy(decision_noise(0, batch.keys(), self.noise_shape, self.noise)))
        decided = parts.add("arrays", lambda: arrays_from(self.decisions, 0))
        parts.add("scatter", lambda: rollouts.scatter(batch.tickets, batch.rows, decided, batch.kept))
        parts.add("answer", lambda: generator.answer(batch))
        await asyncio.gather(*asking)

    def record(self, episodes: Sequence[Episode], show: bool) -> None:
        """Go on to the next row. show: also write the frames of the next observation."""
        for episode in episodes:
            episode.record(Outcome(episode.actions, np.zeros(CHUNK, np.float32), self._shown if show else None))


def _at_once(generator: GeneratorPort) -> Any:
    """The batch that is due already: a coroutine that never waits ends at its first step."""
    try:
        generator.batch().send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("all shards have asked, so a batch is due")


def measure(cameras: int, size: int, batch: int, batches: int) -> dict[str, Any]:
    """The figures of `batches` batches, after one round that writes all frames."""
    torch.set_num_threads(1)
    host, parts, warmup = Host(cameras, size, batch), Parts(), Parts()

    async def rounds() -> None:
        for number in range(1 + -(-batches // DECISIONS)):
            episodes = host.begin(number * batch)
            for _ in range(DECISIONS):
                await host.decide(episodes, parts if number else warmup)
                host.record(episodes, show=not number)

    asyncio.run(rounds())
    found = parts.figures()
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
