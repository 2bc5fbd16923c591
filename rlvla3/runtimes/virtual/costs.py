"""What stages cost on the virtual clock: a profile, measured on a machine or derived from published figures."""

from __future__ import annotations

import bisect
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import model_validator

from rlvla3.config import NonNegativeFloat, Positive, PositiveFloat, Section, Share, check_options
from rlvla3.errors import RecipeError

On = Literal["cores", "compute", "simulation", "coordinator", "nothing"]
"""A host's cores; a device's compute; a device's simulators (rendering and physics beside its compute); one process of the whole cluster; nothing shared."""


class Cost(Section):
    """Seconds of one call of a stage, by how many items it is of (environments stepped, decisions inferred or trained on, versions published).

    on: what it works on. sizes, seconds: work at some sizes, linear between them and beyond the last two; one size alone: in proportion.
    waits: seconds a call takes in addition without working (a simulator that sleeps, a latency). spread: how calls differ, as multiples of the mean in rising
    order, equally likely, linear between them; empty: all alike.
    """

    on: On
    sizes: list[NonNegativeFloat] = [1.0]
    seconds: list[NonNegativeFloat]
    waits: NonNegativeFloat = 0.0
    spread: list[NonNegativeFloat] = []

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
    """cores: work done a second with 1, 2, ... jobs at once on one host. link: bytes a second between hosts, and inside: between devices of one host.

    bus: bytes a second between a device and its host's memory, each way. PCIe 4.0 x16 carries 31.5e9 at most, and page-locked copies about 25e9 of them.
    straggle: how much slower than the mean a host's simulators may be for a whole episode, a share drawn anew each time.
    """

    cores: list[PositiveFloat] = [float(n) for n in range(1, 129)]
    link: PositiveFloat = 25e9
    inside: PositiveFloat = 200e9
    bus: PositiveFloat = 25e9
    straggle: Share = 0.0


class MemoryProfile(Section):
    """Bytes that are held, all at the same time, for `rlvla3 plan` to stay within what there is. 0: not known, and not counted. With engine.offload trainer and
    generator hold a device in turn; then these bytes say too how long that takes them.

    device, host: what one has to give (None: not known, and no limit). generator: its weights and what else it holds whatever it infers; inference: what a
    decision of its batch adds. trainer: weights, gradients and optimizer state, shared evenly by its ranks; rank: what every rank holds besides; activations:
    what a decision of a rank's micro-batch adds. simulator, slot: what a process and each of its environments hold on their device; process, environment: on
    their host.
    """

    device: PositiveFloat | None = None
    host: PositiveFloat | None = None
    generator: NonNegativeFloat = 0.0
    inference: NonNegativeFloat = 0.0
    trainer: NonNegativeFloat = 0.0
    rank: NonNegativeFloat = 0.0
    activations: NonNegativeFloat = 0.0
    simulator: NonNegativeFloat = 0.0
    slot: NonNegativeFloat = 0.0
    process: NonNegativeFloat = 0.0
    environment: NonNegativeFloat = 0.0

    def of_rank(self, ranks: int) -> float:
        """What one of so many ranks holds beside activations."""
        return self.trainer / ranks + self.rank


class Profile(Section):
    """Stage costs of one policy in one simulator on one kind of host.

    source: where the figures come from. episode_steps: environment steps of an episode, equally likely values. chunk: actions a decision.
    truncated: the share of episodes that a time limit cuts, and whose last observation is inferred too, where the recipe bootstraps.
    reset, simulate: by slots reset and stepped together. turn: of a shard that is answered, until it simulates, by its decisions. dispatch, infer: of a batch,
    by decisions. send: of a trajectory on its way to the trainer, by its decisions; nobody waits for it but the trainer. hand_in: of episodes that have ended,
    by their number, until their shard hears of it. receive: of a micro-batch that the trainer takes in, by all ranks' decisions. train: of a micro-batch, by
    one rank's decisions; across: how many times longer where the ranks are on several hosts. step: of the optimizer, with the ranks' exchange of gradients.
    fit: what else an update ends with, by its decisions. load: a generator's change of weights. publish: the trainer's own part of a publication.
    switch: seconds that a colocated synchronous update spends on giving devices from stage to stage. transfer: bytes that a decision sends where simulator and
    generator are on different devices. weights: bytes of a version.
    memory: what fits.
    """

    name: str
    source: str
    chunk: Positive
    episode_steps: list[Positive]
    truncated: Share = 0.0
    reset: Cost = NOTHING
    simulate: Cost
    turn: Cost = NOTHING
    dispatch: Cost = NOTHING
    infer: Cost
    send: Cost = NOTHING
    hand_in: Cost = NOTHING
    receive: Cost = NOTHING
    train: Cost
    across: PositiveFloat = 1.0
    step: Cost = NOTHING
    fit: Cost = NOTHING
    load: Cost = NOTHING
    publish: Cost = NOTHING
    switch: NonNegativeFloat = 0.0
    transfer: NonNegativeFloat = 0.0
    weights: NonNegativeFloat = 0.0
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


class _WordsAreWords(yaml.SafeLoader):
    """YAML 1.1 takes `on` for true."""


_WordsAreWords.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")] for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_profile(path: Path) -> Profile:
    """Raises RecipeError where there is none, or what is there is none."""
    if not path.is_file():
        raise RecipeError(f"no profile at {path}: make one with `rlvla3 profile RECIPE`, or name one that ships with rlvla3")
    try:
        tree = yaml.load(path.read_text(), _WordsAreWords)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, Mapping):
        raise RecipeError(f"{path} is not a profile: it must be a mapping with name:, source:, simulate:, infer: and train:")
    return check_options(Profile, tree, prefix="", refusal=f"{path} is not a profile")
