"""The shortest possible time of an update, in closed form, from the work of each stage and the path of each episode through simulators and generators.

Let an update have B tickets and D decisions. It takes at least as long as each of these:
- the trainer's time for D decisions, one micro-batch after another;
- the generators' time for D / b inferences of b decisions, for the best b;
- the simulators' time on what they share: a device, or the cores of a host;
- the time of a device for all of its stages, if it has several (colocated, hybrid);
- a shard's time for its share of the episodes, one chunk and one inference after another (more environments would shorten it);
- the time of the longest episode and of all that follows until its update is done, divided by max_staleness + 1, because so many updates may run at once.
With max_staleness 0, an update does not overlap with the next rollout, so the time after the rollout is added. Queues and uneven episodes make a real update
longer than the bound.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, harmonic_mean

from rlvla3.config import Recipe
from rlvla3.runtimes.virtual.costs import Cost, Profile
from rlvla3.scheduling.placement import Placement

SHARPNESS = 6.0
"""For `Bound.estimate`: two stages of equal length that overlap take 2 ** (1 / SHARPNESS) times as long as one of them."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The bound of one update. seconds: the shortest time by what needs it. after: seconds to add to the longest of these. steps: environment steps."""

    seconds: Mapping[str, float]
    after: float
    steps: float

    @property
    def stage(self) -> str:
        """What needs the most time."""
        return max(self.seconds, key=lambda stage: self.seconds[stage])

    @property
    def least(self) -> float:
        """The shortest possible time of an update in seconds."""
        return max(self.seconds.values()) + self.after

    @property
    def throughput(self) -> float:
        """The highest possible throughput in environment steps per second."""
        return self.steps / self.least

    @property
    def estimate(self) -> float:
        """A guess of the throughput in environment steps per second. Stages that take nearly as long as the longest stage lower it. It orders equal bounds."""
        longest = max(self.seconds.values())
        together = longest * math.pow(sum((seconds / longest) ** SHARPNESS for seconds in self.seconds.values()), 1 / SHARPNESS)
        return self.steps / (together + self.after)


def update_bound(recipe: Recipe, profile: Profile, placement: Placement) -> Bound:
    """The bound of an update of a settled run."""
    return _BoundComputation(recipe, profile, placement).bound()


def seconds_of(cost: Cost, size: float) -> float:
    """The mean seconds of a call of `size` items that runs alone: work and waiting."""
    return (cost.work(size) + cost.waits) * _mean_factor(cost)


def _mean_factor(cost: Cost) -> float:
    """The mean of `cost.spread`, which is linear between its values."""
    values = cost.spread
    return fmean([(low + high) / 2 for low, high in pairwise(values)] or values or [1.0])


def _work_on(lane: str, cost: Cost, size: float) -> float:
    """The mean seconds of work that a call of `size` items does on `lane`."""
    return cost.work(size) * _mean_factor(cost) if cost.on == lane else 0.0


class _BoundComputation:
    """The quantities of one run from which its bound is computed."""

    def __init__(self, recipe: Recipe, profile: Profile, placement: Placement) -> None:
        self.recipe, self.profile, self.placement = recipe, profile, placement
        engine, simulator = recipe.engine, recipe.simulator
        self.batch = recipe.training.batch
        self.lengths = [math.ceil(steps / profile.chunk) for steps in profile.episode_steps]
        self.decisions = self.batch * fmean(self.lengths)
        running = min(simulator.shards * simulator.slots, (engine.max_staleness + 1) * self.batch)
        self.running = max(running / simulator.shards, 1.0)  # slots of a shard that have a ticket, on average
        self.generators = min(len(placement.generators), simulator.shards)
        self.simulators = min(len(placement.simulators), simulator.shards)
        self.straggle = 1 + profile.host.straggle / 2
        executed = self.steps() / self.decisions
        self.reset_delay, self.chunk_delay = simulator.delay.reset.mean(), executed * simulator.delay.step.mean()
        self.shard_delays = [executed * always for always in simulator.delay.of_shards(simulator.shards)]
        hosts = {placement.cluster.host(device) for device in placement.trainers}
        self.slower = profile.across if len(hosts) > 1 else 1.0
        self.whole, self.tail = self.trainer()
        self.overlapping = 1.0 if engine.max_staleness else 1 - self.tail / max(self.whole, 1e-9)
        """The share of the trainer's work that may overlap with the rollout."""

    def bound(self) -> Bound:
        engine = self.recipe.engine
        rollouts = [self.rollout(batch) for batch in self.batches()]
        rollout = min(rollouts, key=lambda seconds: max(seconds.values()))
        longest, after = self.longest_episode(), self.sending() + self.tail + self.broadcast()
        if engine.max_staleness == 0:
            return Bound(rollout | {"longest episode": longest}, after, self.steps())
        return Bound(rollout | {"trainer": self.whole, "staleness": (longest + after) / (engine.max_staleness + 1)}, 0.0, self.steps())

    def steps(self) -> float:
        return self.batch * fmean(self.profile.episode_steps)

    def trainer(self) -> tuple[float, float]:
        """The trainer's seconds for an update, and for the part that cannot begin before the update's last episode has ended."""
        training, profile, streaming = self.recipe.training, self.profile, self.recipe.engine.streaming
        calls, each = self.micro_batches()
        receive = seconds_of(profile.receive, each * len(self.placement.trainers))
        train, step = seconds_of(profile.train, each) * self.slower, seconds_of(profile.step, 1)
        first = training.steps * (calls * (receive + train) + step)
        later = (training.epochs - 1) * training.steps * (calls * train + step)
        end = seconds_of(profile.fit, self.decisions) + seconds_of(profile.publish, 1) + (profile.switch if self._switches() else 0.0)
        end += self.offload(self.profile.memory.generator + 2 * self.profile.memory.of_rank(len(self.placement.trainers)))
        whole = first + later + end
        return whole, whole - (first - receive - train - step if streaming else 0.0)

    def offload(self, bytes_: float) -> float:
        """Seconds to move `bytes_` onto a device or off it; 0 without engine.offload."""
        return self.profile.offload(bytes_) if self.recipe.engine.offload else 0.0

    def micro_batches(self) -> tuple[float, float]:
        """The number of micro-batches of an optimizer step, and the decisions of one micro-batch on a rank."""
        training = self.recipe.training
        each = self.decisions / training.steps / len(self.placement.trainers)
        return max(each / training.micro_batch, 1.0), min(each, training.micro_batch)

    def sending(self) -> float:
        """Seconds from the end of an update's last episode until the trainer has its trajectories: the last one with streaming, all of them without."""
        send = self.profile.send
        one_by_one = not self.recipe.engine.streaming and send.on == "coordinator"
        return seconds_of(send, self.decisions / self.batch) * (self.batch if one_by_one else 1)

    def rollout(self, batch: float) -> dict[str, float]:
        """The rollout's seconds for an update, by what needs them, with `batch` decisions per inference."""
        profile = self.profile
        inference = seconds_of(profile.dispatch, batch) + seconds_of(profile.infer, batch)
        generators = self.decisions / self.generators / batch * inference + seconds_of(profile.load, 1) + self.offload(profile.memory.generator)
        cycle = seconds_of(profile.simulate, self.running) * self.straggle + seconds_of(profile.turn, self.running) + inference + self.transfer()
        shards = self.recipe.simulator.shards
        delayed = harmonic_mean([cycle + self.chunk_delay + delay for delay in self.shard_delays])  # a slow shard has fewer episodes
        environments = self.decisions / shards / self.running * delayed + self.batch / shards * (seconds_of(profile.reset, 1) + self.reset_delay)
        return {"generators": generators, "environments": environments} | self.lanes(batch)

    def lanes(self, batch: float) -> dict[str, float]:
        """Seconds of an update on everything that is shared: devices, the cores of a host, the coordinator.

        Roles are "s" (simulators), "g" (generators) and "t" (trainer).
        """
        placement, host_of = self.placement, self.placement.cluster.host
        used = {"s": placement.simulators[: self.simulators], "g": placement.generators[: self.generators], "t": placement.trainers}
        roles: dict[int, str] = {}
        for role, devices in used.items():
            for device in devices:
                roles[device] = roles.get(device, "") + role
        hosts = Counter((host_of(device), role) for device, its in roles.items() for role in its)
        load = {lane: dict(self._loads(lane, batch)) for lane in ("compute", "simulation", "cores", "coordinator")}
        cores = max(sum(hosts[host, role] * load["cores"][role] for role in used) for host in {host for host, _ in hosts})
        return {
            "simulators": max(load["simulation"]["s"], load["compute"]["s"]),
            "devices": max(sum(load["compute"][role] for role in its) for its in set(roles.values())),
            "cores": cores / max(self.profile.host.cores),
            "coordinator": sum(len(devices) * load["coordinator"][role] for role, devices in used.items()),
        }

    def _loads(self, lane: str, batch: float) -> Iterator[tuple[str, float]]:
        """For each role, the seconds of an update that one device of this role works on `lane`."""
        profile, training, engine = self.profile, self.recipe.training, self.recipe.engine
        calls = self.decisions / self.running
        simulating = calls * (
            _work_on(lane, profile.simulate, self.running) * self.straggle + _work_on(lane, profile.turn, self.running)
        ) + self.batch * _work_on(lane, profile.reset, 1)
        if engine.streaming or engine.max_staleness:  # otherwise sending follows the rollout: see sending()
            simulating += self.batch * _work_on(lane, profile.send, self.decisions / self.batch)
        yield "s", simulating / self.simulators
        deciding = self.decisions / batch * (_work_on(lane, profile.dispatch, batch) + _work_on(lane, profile.infer, batch))
        yield "g", deciding / self.generators + _work_on(lane, profile.load, 1)
        (number, each), ranks = self.micro_batches(), len(self.placement.trainers)
        steps = training.epochs * training.steps * (number * self.slower * _work_on(lane, profile.train, each) + _work_on(lane, profile.step, 1))
        receiving = training.steps * number * _work_on(lane, profile.receive, each * ranks) / (1 if lane == "compute" else ranks)  # only rank 0 receives
        yield "t", self.overlapping * (steps + receiving)

    def batches(self) -> list[float]:
        """The batch sizes that inference may have: the largest one, and with a finite or a learned T_max also smaller ones."""
        largest = self.largest_batch()
        if self.recipe.engine.max_wait_ms is None and self.recipe.engine.max_batch != "auto":
            return [largest]
        return [*(float(2**power) for power in range(max(math.ceil(math.log2(largest)), 0))), largest]

    def largest_batch(self) -> float:
        """The largest possible batch of an inference: B_max, or all requests that one generator serves."""
        served = self.running * self.recipe.simulator.shards / self.generators
        limit = self.recipe.engine.batch_limit
        return max(served if limit is None else min(served, limit), 1.0)

    def longest_episode(self) -> float:
        """The expected seconds of the longest of an update's episodes, if it runs alone."""
        profile, values = self.profile, sorted(self.lengths)
        count = len(values)
        decisions = sum(length * (((rank + 1) / count) ** self.batch - (rank / count) ** self.batch) for rank, length in enumerate(values))
        decision = seconds_of(profile.dispatch, 1) + seconds_of(profile.infer, 1) + seconds_of(profile.simulate, 1)
        decision += self.chunk_delay + min(self.shard_delays)
        return seconds_of(profile.reset, 1) + self.reset_delay + decisions * (decision + self.transfer() / self.running)

    def transfer(self) -> float:
        """The shortest time in seconds that a shard's observations and actions are on their way."""
        apart = not set(self.placement.simulators) & set(self.placement.generators)
        return self.running * self.profile.transfer / max(self.profile.host.inside, self.profile.host.link) if apart else 0.0

    def broadcast(self) -> float:
        """Seconds until a new version is on every host."""
        host = self.profile.host
        return self.profile.weights * (math.ceil(math.log2(self.placement.cluster.hosts)) / host.link + 1 / host.inside)

    def _switches(self) -> bool:
        engine = self.recipe.engine
        return engine.max_staleness == 0 and not engine.streaming and bool(set(self.placement.trainers) & set(self.placement.generators))
