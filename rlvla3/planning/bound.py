"""What an update takes at least, in closed form: each stage's work on what does it, and each episode's way through simulators and generators.

With B tickets and D decisions an update, an update takes at least as long as
- the trainer needs for its D decisions, one micro-batch after another;
- the generators need for D / b inferences of b decisions, whichever b is best for them and for those who wait;
- the simulators need on what they share: a device, or the cores of a host;
- a device needs for all of its parts where it does several (colocated, hybrid);
- a shard needs for its share of the episodes, one chunk and one answer after another: what more environments would help;
- the longest episode needs, and what follows it until its update is done, divided by max_staleness + 1: so many updates may be under way at once.
With max_staleness 0 nothing of the next rollout overlaps, and what follows the rollout adds to it. Waiting in queues and uneven episodes come on top of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from rlvla3.config import Recipe
from rlvla3.runtimes.virtual.costs import Cost, Profile
from rlvla3.scheduling.placement import Placement

SHARPNESS = 6.0
"""Of the estimate: how much less than their sum two stages of equal length take beside each other, 2 ** (1 / SHARPNESS) times one of them."""


@dataclass(frozen=True, slots=True)
class Bound:
    """seconds: of an update, by what needs them, at least. after: seconds that add to the longest of them. steps: environment steps of an update."""

    seconds: Mapping[str, float]
    after: float
    steps: float

    @property
    def stage(self) -> str:
        """What needs longest."""
        return max(self.seconds, key=lambda stage: self.seconds[stage])

    @property
    def least(self) -> float:
        """Seconds of an update, at least."""
        return max(self.seconds.values()) + self.after

    @property
    def throughput(self) -> float:
        """Environment steps a second, at most."""
        return self.steps / self.least

    @property
    def estimate(self) -> float:
        """Environment steps a second, guessed: stages that take nearly as long as the longest get into its way. Orders settings of equal bounds."""
        longest = max(self.seconds.values())
        together = longest * math.pow(sum((seconds / longest) ** SHARPNESS for seconds in self.seconds.values()), 1 / SHARPNESS)
        return self.steps / (together + self.after)


def bound(recipe: Recipe, profile: Profile, placement: Placement) -> Bound:
    """Of a settled run."""
    return _Run(recipe, profile, placement).bound()


def seconds_of(cost: Cost, size: float) -> float:
    """What a call of `size` items takes alone, in the mean: work and waiting."""
    return (cost.work(size) + cost.waits) * _mean_factor(cost)


def _mean_factor(cost: Cost) -> float:
    """What `spread` comes to in the mean: linear between values that are equally far apart."""
    values = cost.spread
    return fmean([(low + high) / 2 for low, high in pairwise(values)] or values or [1.0])


def _work_on(lane: str, cost: Cost, size: float) -> float:
    return cost.work(size) * _mean_factor(cost) if cost.on == lane else 0.0


class _Run:
    """The figures of one run that its bounds are made of."""

    def __init__(self, recipe: Recipe, profile: Profile, placement: Placement) -> None:
        self.recipe, self.profile, self.placement = recipe, profile, placement
        engine, simulator = recipe.engine, recipe.simulator
        self.batch = recipe.training.batch
        self.lengths = [math.ceil(steps / profile.chunk) for steps in profile.episode_steps]
        self.decisions = self.batch * fmean(self.lengths)
        running = min(simulator.shards * simulator.slots, (engine.max_staleness + 1) * self.batch)
        self.running = max(running / simulator.shards, 1.0)  # slots of a shard that have a ticket
        self.generators = min(len(placement.generators), simulator.shards)
        self.simulators = min(len(placement.simulators), simulator.shards)
        self.straggle = 1 + profile.host.straggle / 2
        hosts = {placement.cluster.host(device) for device in placement.trainers}
        self.slower = profile.across if len(hosts) > 1 else 1.0
        self.whole, self.tail = self.trainer()
        self.overlapping = 1.0 if engine.max_staleness else 1 - self.tail / max(self.whole, 1e-9)
        """The share of the trainer's work that the rollout may go on beside."""

    def bound(self) -> Bound:
        engine = self.recipe.engine
        ways = [self.rollout(batch) for batch in self.batches()]
        rollout = min(ways, key=lambda way: max(way.values()))
        longest, after = self.longest_episode(), self.sending() + self.tail + self.broadcast()
        if engine.max_staleness == 0:
            return Bound(rollout | {"longest episode": longest}, after, self.steps())
        return Bound(rollout | {"trainer": self.whole, "staleness": (longest + after) / (engine.max_staleness + 1)}, 0.0, self.steps())

    def steps(self) -> float:
        return self.batch * fmean(self.profile.episode_steps)

    def trainer(self) -> tuple[float, float]:
        """Seconds of an update, and of what cannot begin before its last episode has ended."""
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

    def offload(self, held: float) -> float:
        """Seconds in which `held` bytes enter or leave a device, where the recipe has them do so."""
        return self.profile.offload(held) if self.recipe.engine.offload else 0.0

    def micro_batches(self) -> tuple[float, float]:
        """How many an optimizer step is made of, and their decisions on a rank."""
        training = self.recipe.training
        each = self.decisions / training.steps / len(self.placement.trainers)
        return max(each / training.micro_batch, 1.0), min(each, training.micro_batch)

    def sending(self) -> float:
        """Seconds from the end of an update's last episode until its trajectories are with the trainer: the last of them, or all where nothing streams."""
        send = self.profile.send
        one_by_one = not self.recipe.engine.streaming and send.on == "coordinator"
        return seconds_of(send, self.decisions / self.batch) * (self.batch if one_by_one else 1)

    def rollout(self, batch: float) -> dict[str, float]:
        """Seconds of an update with `batch` decisions an inference."""
        profile = self.profile
        inference = seconds_of(profile.dispatch, batch) + seconds_of(profile.infer, batch)
        generators = self.decisions / self.generators / batch * inference + seconds_of(profile.load, 1) + self.offload(profile.memory.generator)
        cycle = seconds_of(profile.simulate, self.running) * self.straggle + seconds_of(profile.turn, self.running) + inference + self.transfer()
        shards = self.recipe.simulator.shards
        environments = self.decisions / shards / self.running * cycle + self.batch / shards * seconds_of(profile.reset, 1)
        return {"generators": generators, "environments": environments} | self.lanes(batch)

    def lanes(self, batch: float) -> dict[str, float]:
        """What is shared: devices, the cores of a host, the coordinator."""
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
        """Seconds of an update that one device of each role works on a lane."""
        profile, training, engine = self.profile, self.recipe.training, self.recipe.engine
        calls = self.decisions / self.running
        simulating = calls * (
            _work_on(lane, profile.simulate, self.running) * self.straggle + _work_on(lane, profile.turn, self.running)
        ) + self.batch * _work_on(lane, profile.reset, 1)
        if engine.streaming or engine.max_staleness:  # else it follows the rollout: sending()
            simulating += self.batch * _work_on(lane, profile.send, self.decisions / self.batch)
        yield "s", simulating / self.simulators
        deciding = self.decisions / batch * (_work_on(lane, profile.dispatch, batch) + _work_on(lane, profile.infer, batch))
        yield "g", deciding / self.generators + _work_on(lane, profile.load, 1)
        (number, each), ranks = self.micro_batches(), len(self.placement.trainers)
        steps = training.epochs * training.steps * (number * self.slower * _work_on(lane, profile.train, each) + _work_on(lane, profile.step, 1))
        receiving = training.steps * number * _work_on(lane, profile.receive, each * ranks) / (1 if lane == "compute" else ranks)  # rank 0 alone does it
        yield "t", self.overlapping * (steps + receiving)

    def batches(self) -> list[float]:
        """How many decisions an inference may be of: B_max or all who are served, and where it need not wait for them, fewer."""
        most = self.most()
        if self.recipe.engine.max_wait_ms is None:
            return [most]
        return [*(float(2**power) for power in range(max(math.ceil(math.log2(most)), 0))), most]

    def most(self) -> float:
        served = self.running * self.recipe.simulator.shards / self.generators
        return max(min(served, self.recipe.engine.max_batch or served), 1.0)

    def longest_episode(self) -> float:
        """Seconds that the longest of an update's episodes takes, in the mean, when it is alone."""
        profile, values = self.profile, sorted(self.lengths)
        count = len(values)
        decisions = sum(length * (((rank + 1) / count) ** self.batch - (rank / count) ** self.batch) for rank, length in enumerate(values))
        decision = seconds_of(profile.dispatch, 1) + seconds_of(profile.infer, 1) + seconds_of(profile.simulate, 1)
        return seconds_of(profile.reset, 1) + decisions * (decision + self.transfer() / self.running)

    def transfer(self) -> float:
        """Seconds of a shard's observations and answers on their way, at least."""
        apart = not set(self.placement.simulators) & set(self.placement.generators)
        return self.running * self.profile.transfer / max(self.profile.host.inside, self.profile.host.link) if apart else 0.0

    def broadcast(self) -> float:
        """Seconds until new weights are everywhere."""
        host = self.profile.host
        return self.profile.weights * (math.ceil(math.log2(self.placement.cluster.hosts)) / host.link + 1 / host.inside)

    def _switches(self) -> bool:
        engine = self.recipe.engine
        return engine.max_staleness == 0 and not engine.streaming and bool(set(self.placement.trainers) & set(self.placement.generators))
