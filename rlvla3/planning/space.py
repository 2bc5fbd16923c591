"""The settings among which the search chooses. They change the speed of a run. Of what is learned, they change only the staleness, within its limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import gcd
from typing import Any, Literal

from rlvla3.config import Recipe
from rlvla3.planning.bound import seconds_of
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.scheduling.placement import Cluster, Kind, PlacementError, parse_ratio, place
from rlvla3.simulators.registry import may_have_slots

KNOBS = ("placement", "shards", "slots", "max_batch", "max_wait_ms", "max_staleness")

LARGEST_RATIO_PART = 7
"""The largest number in a placement's ratio, so 7:1 is the most unequal ratio."""

MAX_SLOTS = 16
"""The most environments of one simulator process."""

BATCH_CHOICES = 4
"""The number of values of B_max besides "no limit". Each is half of the next."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One value for each knob. placement: kind and ratio."""

    placement: tuple[Kind, str]
    shards: int
    slots: int
    max_batch: int | Literal["auto"] | None
    max_wait_ms: float | None
    max_staleness: int

    @classmethod
    def of(cls, recipe: Recipe) -> Candidate:
        """The values in a recipe."""
        engine, simulator, placement = recipe.engine, recipe.simulator, recipe.placement
        return cls((placement.kind, placement.ratio), simulator.shards, simulator.slots, engine.max_batch, engine.max_wait_ms, engine.max_staleness)

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with these settings."""
        kind, ratio = self.placement
        changes: dict[str, Any] = {
            "placement": recipe.placement.model_copy(update={"kind": kind, "ratio": ratio}),
            "simulator": recipe.simulator.model_copy(update={"shards": self.shards, "slots": self.slots}),
            "engine": recipe.engine.model_copy(update={knob: getattr(self, knob) for knob in ("max_batch", "max_wait_ms", "max_staleness")}),
        }
        return recipe.model_copy(update=changes)

    def settings(self) -> dict[str, dict[str, Any]]:
        """These settings as sections of a recipe."""
        kind, ratio = self.placement
        return {
            "placement": {"kind": kind} | ({"ratio": ratio} if ratio else {}),
            "simulator": {"shards": self.shards, "slots": self.slots},
            "engine": {"max_batch": self.max_batch, "max_wait_ms": self.max_wait_ms, "max_staleness": self.max_staleness},
        }

    def differs(self, other: Candidate) -> set[str]:
        """The knobs in which two candidates differ."""
        return {knob for knob in KNOBS if getattr(self, knob) != getattr(other, knob)}

    def is_a_step_from(self, other: Candidate) -> bool:
        """Whether the two differ in one knob. With another placement, simulators have another number of devices, so the shards may differ too."""
        return self.differs(other) - ({"shards"} if self.placement != other.placement else set()) in [{knob} for knob in KNOBS]


@dataclass(frozen=True, slots=True)
class Space:
    """All combinations of these values, except those that cannot help. shards: simulator processes per device of the simulators."""

    placements: tuple[tuple[Kind, str], ...]
    shards: tuple[int, ...]
    slots: tuple[int, ...]
    max_batch: tuple[int | Literal["auto"] | None, ...]
    max_wait_ms: tuple[float | None, ...]
    max_staleness: tuple[int, ...]

    @classmethod
    def of(cls, recipe: Recipe, profile: Profile, cluster: Cluster, max_staleness: int) -> Space:
        """The values to try: powers of two up to what the tickets can fill, every placement that divides the cluster, staleness up to its limit."""
        capacity = (max_staleness + 1) * recipe.training.batch
        largest = max(capacity // len(cluster), 1)
        batches = [size for size in _powers(capacity) if size <= max(capacity // len(cluster), 2)][-BATCH_CHOICES:]
        cycle_ms = 1000 * seconds_of(profile.simulate, 1)
        waits = {0.0, float(f"{cycle_ms / 4:.1g}"), recipe.engine.max_wait_ms, None}
        return cls(
            placements=tuple(placements(cluster)),
            shards=tuple(_powers(2 * largest)),
            slots=tuple(_powers(min(2 * largest, MAX_SLOTS))) if may_have_slots(recipe.simulator) else (1,),
            max_batch=("auto", None, *batches),
            max_wait_ms=tuple(sorted(waits, key=lambda wait: float("inf") if wait is None else wait)),
            max_staleness=tuple(sorted({0, *_powers(max_staleness), max_staleness})) if max_staleness else (0,),
        )

    def candidates(self, recipe: Recipe, cluster: Cluster) -> Iterator[Candidate]:
        """The combinations, without those that have at least twice as many environments as tickets, and without a B_max that no batch can reach."""
        for placement in self.placements:
            placed = place(cluster, placement[0], parts_of(placement[1]))
            for shards in (each * len(placed.simulators) for each in self.shards):
                generators = min(len(placed.generators), shards)
                for slots, staleness in ((slots, staleness) for slots in self.slots for staleness in self.max_staleness):
                    if shards * slots >= 2 * max((staleness + 1) * recipe.training.batch, len(placed.simulators)):
                        continue
                    served = shards * slots / generators
                    for max_batch in (size for size in self.max_batch if size is None or size == "auto" or size < served):
                        for max_wait_ms in [None] if max_batch == "auto" else self.max_wait_ms:
                            yield Candidate(placement, shards, slots, max_batch, max_wait_ms, staleness)

    def with_other_values(self, knob: str, chosen: Candidate, cluster: Cluster) -> Iterator[Candidate]:
        """`chosen` with every other value of one knob. With another placement, the number of shards per device of the simulators stays the same."""
        devices = {placement: len(place(cluster, placement[0], parts_of(placement[1])).simulators) for placement in self.placements}
        each = max(chosen.shards // devices[chosen.placement], 1)
        match knob:
            case "placement":
                others = [replace(chosen, placement=placement, shards=each * count) for placement, count in devices.items()]
            case "shards":
                others = [replace(chosen, shards=shards * devices[chosen.placement]) for shards in self.shards]
            case _:
                others = [replace(chosen, **{knob: value}) for value in getattr(self, knob)]
        return (other for other in others if getattr(other, knob) != getattr(chosen, knob))


def placements(cluster: Cluster) -> Iterator[tuple[Kind, str]]:
    """Colocated, and every hybrid and disaggregated ratio into which the cluster can be divided."""
    yield "colocated", ""
    kinds: tuple[Kind, ...] = ("hybrid", "disaggregated")
    for kind in kinds:
        for one in range(1, LARGEST_RATIO_PART + 1):
            for other in range(1, LARGEST_RATIO_PART + 1):
                if gcd(one, other) == 1 and _divides(cluster, kind, (one, other)):
                    yield kind, f"{one}:{other}"


def parts_of(ratio: str) -> tuple[int, ...]:
    """(3, 1) for "3:1", and () for ""."""
    return parse_ratio(ratio) if ratio else ()


def _divides(cluster: Cluster, kind: Kind, ratio: tuple[int, int]) -> bool:
    try:
        place(cluster, kind, ratio)
    except PlacementError:
        return False
    return True


def _powers(largest: int) -> list[int]:
    """1, 2, 4, ... up to `largest`."""
    return [2**power for power in range(largest.bit_length())]


def flatten_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Settings by `section.key` instead of by section."""
    return {f"{section}.{key}": value for section, keys in settings.items() for key, value in keys.items()}
