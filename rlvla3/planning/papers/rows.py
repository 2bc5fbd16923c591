"""The rows of RL-VLA3 v1's tables, and which of them contradict themselves or their neighbours: found from what is printed alone, never from a rehearsal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import median
from typing import Any, Literal, cast, get_args

import yaml

from rlvla3.config import Positive, Section
from rlvla3.scheduling.placement import Cluster

Strategy = Literal["synchronous", "async training", "async rollout", "async training + rollout", "all"]
"""The papers': who overlaps with whom. `all` is with the streamer."""

OVERLAPPING: tuple[Strategy, ...] = ("async training", "async training + rollout", "all")
"""Those that train while rollouts go on."""

OTHER_ENVIRONMENTS = 0.1
"""By how much the environments that a throughput is for may differ from those that the times are for."""

OTHER_ACTOR = 1.5
"""By what factor a sample's actor time may differ from the neighbours'."""

SUPERLINEAR = 1.1
"""By what factor throughput may rise more than the number of GPUs does."""


class Setup(Section):
    """A column of Table 2. environments: of one node, by ratio; 8 GPUs are a node, and 6 with 2:1."""

    benchmark: str
    environments: dict[str, Positive]
    episode_steps: Positive
    chunk: Positive
    rollout_epochs: Positive
    micro_batch: Positive

    @property
    def decisions(self) -> int:
        """Of an episode."""
        return math.ceil(self.episode_steps / self.chunk)


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. ratio: "colocated", "hybrid", or rollout to training GPUs. variant: "T+R", "up=2" or nothing. throughput in environment steps a second;
    printed_time of a step, and of its rollout and actor parts, in seconds, None where they are not printed."""

    table: str
    model: str
    strategy: Strategy
    ratio: str
    variant: str
    devices: int
    throughput: float | None
    printed_time: float | None = None
    rollout: float | None = None
    actor: float | None = None

    @property
    def name(self) -> str:
        return f"{self.table}: {self.model}, {self.placement}, {self.devices} GPUs, {self.strategy}"

    @property
    def placement(self) -> str:
        """As the papers write it: "colocated", "hybrid", "disaggregated 2:1 T+R"."""
        return f"{'disaggregated ' if ':' in self.ratio else ''}{self.ratio} {self.variant}".strip()

    @property
    def setup(self) -> Setup:
        return setups()[self.model]

    @property
    def cluster(self) -> Cluster:
        width = 6 if self.ratio == "2:1" else 8
        return Cluster(self.devices // width, width)

    @property
    def parts(self) -> tuple[int, int]:
        """GPUs with rollouts (of a kind), and with the actor."""
        if ":" not in self.ratio:
            return (self.devices // 2 if self.ratio == "hybrid" else self.devices), self.devices
        rollout, actor = map(int, self.ratio.split(":"))
        return self.devices * rollout // (rollout + actor), self.devices * actor // (rollout + actor)

    @property
    def environments(self) -> int:
        by_ratio = self.setup.environments
        return by_ratio.get(f"{self.ratio} {self.variant}", by_ratio.get(self.ratio, by_ratio["default"])) * self.cluster.hosts

    @property
    def steps(self) -> int:
        """Environment steps of a step."""
        return self.setup.rollout_epochs * self.environments * self.setup.episode_steps

    @property
    def time(self) -> float:
        """Seconds of a step: as printed, else from the throughput by equation 2."""
        if self.printed_time is not None:
            return self.printed_time
        if self.throughput is None:
            raise ValueError(f"neither time nor throughput is printed of {self.name}")
        return self.steps / self.throughput

    @property
    def environments_of_throughput(self) -> float:
        """How many environments the printed throughput is for, by equation 2 and the printed time."""
        return (self.throughput or 0.0) * self.time / self.steps * self.environments

    @property
    def actor_cost(self) -> float | None:
        """GPU seconds of the actor for an environment, with all update epochs."""
        if self.actor is None:
            return None
        return self.actor * self.parts[1] / self.environments * (2 if self.variant == "up=2" else 1)


@cache
def setups() -> dict[str, Setup]:
    return {model: Setup.model_validate(setup) for model, setup in _tables()["setups"].items()}


@cache
def table(name: str) -> tuple[Row, ...]:
    """The rows of "table1", "table3" or "table4", in the table's order."""
    tree = _tables()[name]
    return tuple(row for model, strategies in tree.items() for strategy, printed in strategies.items() for row in _rows(name, model, strategy, printed))


def find(name: str, model: str, placement: str, devices: int, strategy: Strategy = "synchronous") -> Row:
    """The one row of a table that is so."""
    (row,) = (row for row in table(name) if (row.model, row.placement, row.devices, row.strategy) == (model, placement, devices, strategy))
    return row


@cache
def contradiction(row: Row) -> str:
    """Why the row's figures cannot all be right, or nothing."""
    reasons = []
    printed, timed = row.environments_of_throughput, row.environments
    if abs(printed / timed - 1) > OTHER_ENVIRONMENTS:
        reasons.append(f"throughput is for {printed:.0f} environments, times are for {timed}")
    actor = row.actor_cost
    if actor is not None and not 1 / OTHER_ACTOR < (times := actor / _usual_actor_cost(row.model)) < OTHER_ACTOR:
        reasons.append(f"actor time is {times:.2g} times the other rows', for the same samples and GPUs")
    larger = next((other for other in table(row.table) if _same_but_devices(other, row) and other.devices == 2 * row.devices), None)
    if larger and larger.throughput and row.throughput and row.printed_time is None and (times := larger.throughput / row.throughput) > 2 * SUPERLINEAR:
        reasons.append(f"twice the GPUs give {times:.3g} times its throughput")
    return "; ".join(reasons)


def _usual_actor_cost(model: str) -> float:
    return median(cost for name in ("table3", "table4") for row in table(name) if row.model == model and (cost := row.actor_cost) is not None)


def _same_but_devices(one: Row, other: Row) -> bool:
    return (one.model, one.strategy, one.ratio, one.variant) == (other.model, other.strategy, other.ratio, other.variant)


def _rows(name: str, model: str, label: str, printed: Sequence[Any]) -> Iterator[Row]:
    if name == "table1":
        strategy, _, placement = label.partition(" colocated") if "colocated" in label else (label, "", "")
        ratio = "colocated" if "colocated" in label else "1:1"
        for devices, throughput in zip((8, 16, 32), printed, strict=True):
            yield Row(name, model, _strategy(strategy), ratio, placement, devices, throughput)
        return
    for placement, devices, *figures in printed:
        ratio, _, variant = placement.partition(" ")
        yield Row(name, model, _strategy(label), ratio, variant, devices, *figures)


def _strategy(label: str) -> Strategy:
    if label not in get_args(Strategy):
        raise ValueError(f"{label} is not one of the papers' strategies")
    return cast(Strategy, label)


def _tables() -> Any:
    return yaml.safe_load((files("rlvla3.planning.papers") / "tables.yaml").read_text())
