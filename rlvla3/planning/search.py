"""The search for the fastest settings: closed-form bounds order and prune them, rehearsals of the production scheduler decide.

A tenth of the rehearsals that trying everything would take, at most: first the most promising of each placement, then from the best found one knob after
another as long as that helps, then what is left in the order of its promise. What cannot beat the best found, by its bound, is not rehearsed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rlvla3.config import Recipe
from rlvla3.errors import ExplainedError
from rlvla3.planning.bound import Bound, bound
from rlvla3.planning.memory_fit import Held, held
from rlvla3.planning.rehearsal import WARMUP, Rehearsal, rehearse, whole_waves
from rlvla3.planning.space import KNOBS, Candidate, Space, parts_of
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.scheduling.placement import Cluster, place

UPDATES = 4
"""Settled updates of each rehearsal, at least."""

SHARE = 10
"""One of so many candidates is rehearsed, at most."""

MOST = 60
"""Rehearsals of a search, at most, however large the space is."""

SLACK = 1.05
"""A few updates may be faster than their bound, which is of the mean, by as much as their episodes are of fewer steps."""

ALIKE = 0.99
"""Of settings that reach this share of the fastest, those with the least staleness are chosen, and of these the ones with the fewest environments."""


class PlanError(ExplainedError, RuntimeError):
    """Nothing that can be planned: what is short, by how much, and the way out."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings, what bounds them, what they do and what they hold."""

    candidate: Candidate
    bound: Bound
    rehearsal: Rehearsal
    held: Held

    @property
    def throughput(self) -> float:
        return self.rehearsal.throughput


@dataclass(frozen=True, slots=True)
class Worth:
    """What a knob is worth: the throughput of the chosen settings but for it. recipes: whether the other value is the recipe's, else it is the next best."""

    knob: str
    instead: Candidate
    throughput: float
    recipes: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """best: the chosen settings, then the fastest found with each other placement, then other fast ones. worth: of the chosen settings' knobs. recipe: what the
    recipe does as it stands, None where it does not fit. space, fitting: candidates, and those that fit into memory. evaluations: rehearsals that it took to
    choose; what knobs are worth takes up to one more for each."""

    best: Sequence[Choice]
    worth: Sequence[Worth]
    recipe: Choice | None
    space: int
    fitting: int
    evaluations: int


class Search:
    """Looks for the fastest settings of a recipe on a cluster.

    memory: bytes of a device (None: what the profile says). seed: of all rehearsals. on_progress: is told of each rehearsal.

        plan = Search(recipe, profile, cluster, Space.of(recipe, profile, cluster, max_staleness=2)).plan(best=3)
    """

    def __init__(
        self,
        recipe: Recipe,
        profile: Profile,
        cluster: Cluster,
        space: Space,
        *,
        memory: float | None = None,
        seed: int = 0,
        on_progress: Callable[[int, int, float], None] = lambda done, budget, best: None,
    ) -> None:
        self.recipe, self.profile, self.cluster, self.memory, self.seed = recipe, profile, cluster, memory, seed
        self._space, self._most_stale = space, max(space.max_staleness)
        self.candidates = list(space.candidates(recipe, cluster))
        self.budget = min(max(len(self.candidates) // SHARE, 1), MOST)
        self.tried: dict[Candidate, Rehearsal] = {}
        self._on_progress = on_progress
        self._placements = {placement: place(cluster, placement[0], parts_of(placement[1])) for placement in space.placements}

    def plan(self, best: int) -> Plan:
        """Search, and say what the knobs are worth. Raises PlanError where nothing fits."""
        fitting = self._fitting()
        bounds = {candidate: self.bound(candidate) for candidate in fitting}
        ordered = sorted(fitting, key=lambda candidate: -bounds[candidate].estimate)
        self._try_each_placement(ordered, bounds)
        self._climb(ordered, bounds)
        for candidate in ordered:
            self._try(candidate, bounds)
        chosen, evaluations = self.best(), len(self.tried)
        worth = [worth for knob in KNOBS if (worth := self._worth(knob, chosen))]
        recipe = self._as_it_stands()
        return Plan(
            best=[self._choice(candidate) for candidate in self._few(chosen)[:best]],
            worth=worth,
            recipe=recipe,
            space=len(self.candidates),
            fitting=len(fitting),
            evaluations=evaluations,
        )

    def best(self) -> Candidate:
        """The best that was tried."""
        fastest = max(rehearsal.throughput for rehearsal in self.tried.values())
        alike = [candidate for candidate, rehearsal in self.tried.items() if rehearsal.throughput >= ALIKE * fastest]
        return min(alike, key=lambda candidate: (candidate.max_staleness, candidate.shards * candidate.slots, -self.tried[candidate].throughput))

    def bound(self, candidate: Candidate) -> Bound:
        return bound(candidate.apply(self.recipe), self.profile, self._placements[candidate.placement])

    def rehearse(self, candidate: Candidate) -> Rehearsal:
        """All measure from the same update on, however many it takes to settle: tickets differ in length."""
        warmup, updates = WARMUP + max(self._most_stale - candidate.max_staleness, 0), whole_waves(candidate.max_staleness, UPDATES)
        return rehearse(candidate.apply(self.recipe), self.profile, self.cluster, seed=self.seed, updates=updates, warmup=warmup)

    def held(self, candidate: Candidate) -> Held:
        return held(candidate.apply(self.recipe), self.profile.memory, self._placements[candidate.placement], self.memory)

    def _fitting(self) -> list[Candidate]:
        needs = {candidate: self.held(candidate) for candidate in self.candidates}
        fitting = [candidate for candidate in self.candidates if not needs[candidate].short]
        if not fitting:
            least = min(self.candidates, key=lambda candidate: needs[candidate].short)
            kind, ratio = least.placement
            raise PlanError(
                f"none of {len(self.candidates)} settings fits into memory. The one that is least short, {kind} {ratio}".rstrip()
                + f" with {least.shards} x {least.slots} environments, needs {needs[least]}: "
                f"use more or larger devices (--gpus, --memory), or a smaller training.micro_batch, now {self.recipe.training.micro_batch}"
            )
        return fitting

    def _try(self, candidate: Candidate, bounds: Mapping[Candidate, Bound]) -> bool:
        """Rehearse a candidate, unless that is done, is no use or is one too many. Returns whether it is now the fastest."""
        fastest = max((rehearsal.throughput for rehearsal in self.tried.values()), default=0.0)
        if candidate in self.tried or len(self.tried) >= self.budget or bounds[candidate].throughput * SLACK <= fastest:
            return False
        found = self.tried[candidate] = self.rehearse(candidate)
        self._on_progress(len(self.tried), self.budget, max(fastest, found.throughput))
        return found.throughput > fastest

    def _try_each_placement(self, ordered: Sequence[Candidate], bounds: Mapping[Candidate, Bound]) -> None:
        """The most promising of each placement, for no more than half of what may be spent."""
        first: dict[object, Candidate] = {}
        for candidate in ordered:
            first.setdefault(candidate.placement, candidate)
        for candidate in list(first.values())[: max(self.budget // 2, 1)]:
            self._try(candidate, bounds)

    def _climb(self, ordered: Sequence[Candidate], bounds: Mapping[Candidate, Bound]) -> None:
        """From the fastest, turn the knob that promises most, as long as something gets faster."""
        climbing = True
        while climbing:
            top = max(self.tried, key=lambda candidate: self.tried[candidate].throughput)
            climbing = any(self._try(candidate, bounds) for candidate in ordered if candidate.is_a_step_from(top))

    def _few(self, chosen: Candidate) -> list[Candidate]:
        """The chosen one; the fastest that was tried of every other placement; and the rest, the fastest first."""
        ordered = sorted(self.tried, key=lambda candidate: -self.tried[candidate].throughput)
        fastest: dict[object, Candidate] = {chosen.placement: chosen}
        for candidate in ordered:
            fastest.setdefault(candidate.placement, candidate)
        return [*fastest.values(), *(candidate for candidate in ordered if candidate not in fastest.values())]

    def _choice(self, candidate: Candidate) -> Choice:
        if candidate not in self.tried:
            self.tried[candidate] = self.rehearse(candidate)
        return Choice(candidate, self.bound(candidate), self.tried[candidate], self.held(candidate))

    def _worth(self, knob: str, chosen: Candidate) -> Worth | None:
        """None where there is nothing to set the knob to."""
        own = replace(chosen, **{knob: getattr(Candidate.of(self.recipe), knob)})
        if own != chosen and own.placement in self._placements and not self.held(own).short:
            return Worth(knob, own, self._choice(own).throughput, recipes=True)
        others = [other for other in self._space.turn(knob, chosen, self.cluster) if not self.held(other).short]
        if not others:
            return None
        other = max(others, key=lambda candidate: self.bound(candidate).estimate)
        return Worth(knob, other, self._choice(other).throughput, recipes=False)

    def _as_it_stands(self) -> Choice | None:
        own = Candidate.of(self.recipe)
        return self._choice(own) if own.placement in self._placements and not self.held(own).short else None
