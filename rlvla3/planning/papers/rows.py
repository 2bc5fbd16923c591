"""The rows of RL-VLA3 v1's tables, and which of them contradict themselves or other rows.

Invariant: contradictions are found from the printed figures alone, never from a rehearsal.
"""

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
"""The papers' names for what overlaps. `all` includes the streamer."""

OVERLAPPING: tuple[Strategy, ...] = ("async training", "async training + rollout", "all")
"""The strategies in which training overlaps rollouts."""

ENVIRONMENTS_TOLERANCE = 0.1
"""By what share the number of environments that fits a row's throughput may differ from the number that fits its times."""

ACTOR_TOLERANCE = 1.5
"""By what factor the actor time per sample may differ from that of other rows."""

SPEEDUP_TOLERANCE = 1.1
"""By what factor the throughput may grow more than the number of GPUs."""


class PaperSetup(Section):
    """A column of Table 2."""

    benchmark: str
    """The simulator."""

    environments: dict[str, Positive]
    """Environments of one node, by ratio. A node has 8 GPUs, and 6 with the ratio 2:1."""

    episode_steps: Positive
    """Environment steps of an episode."""

    chunk: Positive
    """Actions in one decision."""

    rollout_epochs: Positive
    """Episodes of each environment in an update."""

    micro_batch: Positive
    """Decisions in one forward and backward pass."""

    @property
    def decisions(self) -> int:
        """Decisions of an episode."""
        return math.ceil(self.episode_steps / self.chunk)


@dataclass(frozen=True, slots=True)
class Row:
    """One printed measurement.

    ratio: "colocated", "hybrid", or the ratio of rollout GPUs to training GPUs. variant: "T+R", "up=2" or "". throughput: environment steps per second.
    printed_time, rollout, actor: seconds of a step and of its rollout and actor parts. Figures that are not printed are None.
    """

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
        """The placement as the papers write it: "colocated", "hybrid", "disaggregated 2:1 T+R"."""
        return f"{'disaggregated ' if ':' in self.ratio else ''}{self.ratio} {self.variant}".strip()

    @property
    def setup(self) -> PaperSetup:
        return setups()[self.model]

    @property
    def cluster(self) -> Cluster:
        width = 6 if self.ratio == "2:1" else 8
        return Cluster(self.devices // width, width)

    @property
    def parts(self) -> tuple[int, int]:
        """The number of GPUs with rollouts, and the number with the actor."""
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
        """The environment steps of one (training) step."""
        return self.setup.rollout_epochs * self.environments * self.setup.episode_steps

    @property
    def time(self) -> float:
        """Seconds of a step: as printed, otherwise from the throughput by equation 2."""
        if self.printed_time is not None:
            return self.printed_time
        if self.throughput is None:
            raise ValueError(f"neither the time nor the throughput of {self.name} is printed")
        return self.steps / self.throughput

    @property
    def environments_of_throughput(self) -> float:
        """The number of environments that the printed throughput and the printed time imply, by equation 2."""
        return (self.throughput or 0.0) * self.time / self.steps * self.environments

    @property
    def actor_cost(self) -> float | None:
        """The actor's GPU seconds per environment, with all update epochs."""
        if self.actor is None:
            return None
        return self.actor * self.parts[1] / self.environments * (2 if self.variant == "up=2" else 1)


@cache
def setups() -> dict[str, PaperSetup]:
    return {model: PaperSetup.model_validate(setup) for model, setup in _tables()["setups"].items()}


@cache
def table(name: str) -> tuple[Row, ...]:
    """The rows of "table1", "table3" or "table4", in the table's order."""
    tree = _tables()[name]
    return tuple(row for model, strategies in tree.items() for strategy, printed in strategies.items() for row in _rows(name, model, strategy, printed))


def find(name: str, model: str, placement: str, devices: int, strategy: Strategy = "synchronous") -> Row:
    """The row of a table with these values."""
    (row,) = (row for row in table(name) if (row.model, row.placement, row.devices, row.strategy) == (model, placement, devices, strategy))
    return row


@cache
def contradiction(row: Row) -> str:
    """Why the row's figures cannot all be right; "" if nothing contradicts them."""
    reasons = []
    printed, timed = row.environments_of_throughput, row.environments
    if abs(printed / timed - 1) > ENVIRONMENTS_TOLERANCE:
        reasons.append(f"throughput is for {printed:.0f} environments, times are for {timed}")
    actor = row.actor_cost
    if actor is not None and not 1 / ACTOR_TOLERANCE < (times := actor / _usual_actor_cost(row.model)) < ACTOR_TOLERANCE:
        reasons.append(f"actor time is {times:.2g} times the other rows', for the same samples and GPUs")
    larger = next((other for other in table(row.table) if _same_but_devices(other, row) and other.devices == 2 * row.devices), None)
    if larger and larger.throughput and row.throughput and row.printed_time is None and (times := larger.throughput / row.throughput) > 2 * SPEEDUP_TOLERANCE:
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
