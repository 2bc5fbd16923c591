"""What stages cost on the virtual clock: a profile, measured on a machine or derived from published figures."""

from __future__ import annotations

import bisect
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from rlvla3.config import NonNegativeFloat, Positive, PositiveFloat, Section, Share, check_options
from rlvla3.config.yaml_text import read_yaml
from rlvla3.errors import RecipeError

On = Literal["cores", "compute", "simulation", "coordinator", "nothing"]


class Cost(Section):
    """How long one call of a stage takes. The size of a call is its number of items, such as environments stepped or decisions inferred."""

    on: On
    """What the call works on. `cores`: the cores of a host. `compute`: the compute of a device. `simulation`: the simulators of a device, that is rendering and
    physics beside its compute. `coordinator`: the one process of the whole cluster that trajectories pass through. `nothing`: nothing that others share."""

    sizes: list[NonNegativeFloat] = [1.0]
    """Sizes of calls for which `seconds` are given, in rising order."""

    seconds: list[NonNegativeFloat]
    """Seconds of work at these sizes. Between sizes, and beyond the last two, they are linear. With only one size they are proportional to the size."""

    waits: NonNegativeFloat = 0.0
    """Seconds that a call takes in addition without working, such as a latency or a simulator that sleeps."""

    spread: list[NonNegativeFloat] = []
    """How much calls differ: multiples of the mean in rising order, all equally likely, linear between them. Empty means that all calls take the same time."""

    @model_validator(mode="after")
    def _check(self) -> Cost:
        if len(self.sizes) != len(self.seconds) or self.sizes != sorted(set(self.sizes)):
            raise ValueError(f"sizes must rise, and each needs its seconds: given {self.sizes} and {self.seconds}")
        if self.spread and self.spread != sorted(self.spread):
            raise ValueError(f"spread must rise: given {self.spread}")
        return self

    def work(self, size: float) -> float:
        """Mean seconds of work of a call of `size` items."""
        sizes, seconds = self.sizes, self.seconds
        if len(sizes) == 1:
            return seconds[0] * size / sizes[0] if sizes[0] else seconds[0]
        right = min(max(bisect.bisect_left(sizes, size), 1), len(sizes) - 1)
        share = (size - sizes[right - 1]) / (sizes[right] - sizes[right - 1])
        return max(seconds[right - 1] + share * (seconds[right] - seconds[right - 1]), 0.0)

    def factor(self, random: random.Random) -> float:
        """How much longer than the mean this call takes."""
        if not self.spread:
            return 1.0
        place = random.random() * (len(self.spread) - 1)
        low = int(place)
        return self.spread[low] + (place - low) * (self.spread[min(low + 1, len(self.spread) - 1)] - self.spread[low])


NOTHING = Cost(on="nothing", seconds=[0.0])


class HostProfile(Section):
    """What a host can do, and its links."""

    cores: list[PositiveFloat] = [float(n) for n in range(1, 129)]
    """Work done in a second with 1, 2, ... jobs at the same time on one host."""

    link: PositiveFloat = 25e9
    """Bytes per second between hosts."""

    inside: PositiveFloat = 200e9
    """Bytes per second between devices of one host."""

    bus: PositiveFloat = 25e9
    """Bytes per second between a device and the memory of its host, in each direction. PCIe 4.0 x16 carries at most 31.5e9. Copies from page-locked memory
    reach about 25e9."""

    straggle: Share = 0.0
    """How much slower than the mean the simulators of a host may be for a whole episode. The slowdown is drawn anew for each episode."""


class MemoryProfile(Section):
    """Bytes that are held at the same time, so that `rlvla3 plan` can stay within the memory there is. 0 means unknown; it is not counted.

    With `engine.offload`, trainer and generator hold a device in turn. The same bytes then also say how long a change takes.
    """

    device: PositiveFloat | None = None
    """Memory of one device. `null` means unknown: there is no limit."""

    host: PositiveFloat | None = None
    """Memory of one host. `null` means unknown: there is no limit."""

    generator: NonNegativeFloat = 0.0
    """A generator's weights and all else that it holds, whatever the size of its batch."""

    inference: NonNegativeFloat = 0.0
    """What a generator holds in addition for each decision of its batch."""

    trainer: NonNegativeFloat = 0.0
    """Weights, gradients and optimizer state. The ranks share them evenly."""

    rank: NonNegativeFloat = 0.0
    """What every rank holds in addition."""

    activations: NonNegativeFloat = 0.0
    """What a rank holds in addition for each decision of its micro-batch."""

    simulator: NonNegativeFloat = 0.0
    """What a simulator process holds on its device."""

    slot: NonNegativeFloat = 0.0
    """What each environment of a process holds on its device."""

    process: NonNegativeFloat = 0.0
    """What a simulator process holds on its host."""

    environment: NonNegativeFloat = 0.0
    """What each environment of a process holds on its host."""

    def of_rank(self, ranks: int) -> float:
        """What one of so many ranks holds beside activations."""
        return self.trainer / ranks + self.rank


class Profile(Section):
    """What the stages of one policy cost in one simulator, on one kind of host."""

    name: str
    """Name of the profile."""

    source: str
    """Where the figures come from."""

    chunk: Positive
    """Actions in one decision."""

    episode_steps: list[Positive]
    """Environment steps of an episode. Each value of the list is equally likely."""

    truncated: Share = 0.0
    """Share of the episodes that a time limit cuts. If the recipe bootstraps, their last observation is inferred too."""

    reset: Cost = NOTHING
    """A reset of the slots of a shard. Size: slots reset together."""

    simulate: Cost
    """Simulation of one chunk. Size: slots stepped together."""

    turn: Cost = NOTHING
    """What a shard does between the answer and the next simulation. Size: decisions answered."""

    dispatch: Cost = NOTHING
    """What a generator does to form a batch and to answer it. Size: decisions."""

    infer: Cost
    """Inference of a batch. Size: decisions."""

    send: Cost = NOTHING
    """The way of a trajectory to the trainer. Only the trainer waits for it. Size: decisions."""

    hand_in: Cost = NOTHING
    """From the end of episodes until their shard is told that they were taken. Size: episodes."""

    receive: Cost = NOTHING
    """What the trainer does to take in a micro-batch. Size: decisions of all ranks."""

    train: Cost
    """Forward and backward pass of a micro-batch. Size: decisions of one rank."""

    across: PositiveFloat = 1.0
    """How many times longer `train` takes if the ranks are on several hosts."""

    step: Cost = NOTHING
    """A step of the optimizer, with the exchange of gradients between ranks."""

    fit: Cost = NOTHING
    """The rest of an update, such as the critic's extra passes. Size: decisions of the update."""

    load: Cost = NOTHING
    """What a generator does to take over new weights."""

    publish: Cost = NOTHING
    """The trainer's own part of a publication of weights."""

    switch: NonNegativeFloat = 0.0
    """Seconds that a colocated synchronous update needs to give devices from one stage to the next."""

    transfer: NonNegativeFloat = 0.0
    """Bytes that a decision sends if simulator and generator are on different devices."""

    weights: NonNegativeFloat = 0.0
    """Bytes of a version."""

    host: HostProfile = HostProfile()
    memory: MemoryProfile = MemoryProfile()

    def offload(self, held: float) -> float:
        """Seconds in which `held` bytes leave a device for its host's memory, or come back."""
        return held / self.host.bus

    def steps(self, ticket: int) -> int:
        """Environment steps of a ticket's episode: the same whenever it is run."""
        return self.episode_steps[random.Random(ticket).randrange(len(self.episode_steps))] if len(self.episode_steps) > 1 else self.episode_steps[0]

    def cut(self, ticket: int) -> bool:
        """Whether a time limit cuts a ticket's episode: the same whenever it is run."""
        return self.truncated > 0 and random.Random(f"cut {ticket}").random() < self.truncated


def load_profile(path: Path) -> Profile:
    """Raises RecipeError where there is none, or what is there is none."""
    tree = read_yaml(path, "profile", "make one with `rlvla3 profile RECIPE`, or name one that ships with rlvla3")
    if not isinstance(tree, Mapping):
        raise RecipeError(f"{path} is not a profile: it must be a mapping with name:, source:, simulate:, infer: and train:")
    return check_options(Profile, tree, prefix="", refusal=f"{path} is not a profile")
