"""The search for the fastest settings. Closed-form bounds order and prune the candidates; rehearsals with the real scheduling code decide.

At most a tenth of the candidates are rehearsed, in this order: the most promising candidate of each placement; then candidates that differ from the best one in
one knob, as long as this finds a faster one; then the remaining candidates by their estimates. A candidate is skipped if its bound shows that it cannot beat
the best one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rlvla3.config import Recipe
from rlvla3.errors import ExplainedError
from rlvla3.planning.bound import Bound, update_bound
from rlvla3.planning.memory_fit import MemoryNeed, memory_need
from rlvla3.planning.rehearsal import WARMUP, Rehearsal, rehearse, whole_waves
from rlvla3.planning.space import KNOBS, Candidate, Space, parts_of
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.scheduling.placement import Cluster, place

UPDATES = 4
"""The least number of settled updates in each rehearsal."""

CANDIDATES_PER_REHEARSAL = 10
"""At most one of so many candidates is rehearsed."""

MAX_REHEARSALS = 60
"""The most rehearsals of a search, however large the space is."""

BOUND_SLACK = 1.05
"""The bound is for episodes of mean length. A few updates may be faster by this factor, because their episodes happen to be shorter."""

NEARLY_FASTEST = 0.99
"""Among settings that reach this share of the highest throughput, those with the least staleness are chosen, and among these the fewest environments."""


class PlanError(ExplainedError, RuntimeError):
    """No plan is possible. The message says what is missing, how much, and what to do."""


@dataclass(frozen=True, slots=True)
class RehearsedCandidate:
    """Settings with their bound, their rehearsal and the memory that they need."""

    candidate: Candidate
    bound: Bound
    rehearsal: Rehearsal
    memory_need: MemoryNeed

    @property
    def throughput(self) -> float:
        return self.rehearsal.throughput


@dataclass(frozen=True, slots=True)
class KnobEffect:
    """What a knob contributes: the throughput of the chosen settings with another value of this knob.

    recipes: whether the other value is the recipe's; otherwise it is the most promising other value.
    """

    knob: str
    instead: Candidate
    throughput: float
    recipes: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The result of a search.

    best: the chosen settings, then the fastest of each other placement, then other fast ones. worth: the effects of the chosen settings' knobs. recipe: the
    recipe without changes, None if it does not fit into memory. space: the number of candidates. fitting: the number of those that fit into memory.
    evaluations: the number of rehearsals until the choice; the effects of the knobs take up to one more rehearsal each.
    """

    best: Sequence[RehearsedCandidate]
    worth: Sequence[KnobEffect]
    recipe: RehearsedCandidate | None
    space: int
    fitting: int
    evaluations: int


class Search:
    """Searches the fastest settings of a recipe on a cluster.

    memory: bytes of a device (None: what the profile says). seed: the seed of all rehearsals. on_progress: called after each rehearsal, with the number of
    rehearsals done, the budget and the best throughput.

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
        self._space, self._largest_staleness = space, max(space.max_staleness)
        self.candidates = list(space.candidates(recipe, cluster))
        self.budget = min(max(len(self.candidates) // CANDIDATES_PER_REHEARSAL, 1), MAX_REHEARSALS)
        self.rehearsed: dict[Candidate, Rehearsal] = {}
        self._on_progress = on_progress
        self._placements = {placement: place(cluster, placement[0], parts_of(placement[1])) for placement in space.placements}

    def plan(self, best: int) -> Plan:
        """Search, and find the effect of each knob. best: the number of settings to return. Raises PlanError if no settings fit into memory."""
        fitting = self._fitting()
        bounds = {candidate: self.bound(candidate) for candidate in fitting}
        ordered = sorted(fitting, key=lambda candidate: -bounds[candidate].estimate)
        self._try_each_placement(ordered, bounds)
        self._climb(ordered, bounds)
        for candidate in ordered:
            self._rehearse_if_promising(candidate, bounds)
        chosen, evaluations = self.best(), len(self.rehearsed)
        worth = [effect for knob in KNOBS if (effect := self._knob_effect(knob, chosen))]
        recipe = self._recipe_itself()
        return Plan(
            best=[self._rehearsed_candidate(candidate) for candidate in self._ordered_choices(chosen)[:best]],
            worth=worth,
            recipe=recipe,
            space=len(self.candidates),
            fitting=len(fitting),
            evaluations=evaluations,
        )

    def best(self) -> Candidate:
        """The best candidate that was rehearsed."""
        fastest = max(rehearsal.throughput for rehearsal in self.rehearsed.values())
        fast = [candidate for candidate, rehearsal in self.rehearsed.items() if rehearsal.throughput >= NEARLY_FASTEST * fastest]
        return min(fast, key=lambda candidate: (candidate.max_staleness, candidate.shards * candidate.slots, -self.rehearsed[candidate].throughput))

    def bound(self, candidate: Candidate) -> Bound:
        return update_bound(candidate.apply(self.recipe), self.profile, self._placements[candidate.placement])

    def rehearse(self, candidate: Candidate) -> Rehearsal:
        """Rehearse a candidate. All candidates are measured from the same update on, because tickets differ in length."""
        warmup, updates = WARMUP + max(self._largest_staleness - candidate.max_staleness, 0), whole_waves(candidate.max_staleness, UPDATES)
        return rehearse(candidate.apply(self.recipe), self.profile, self.cluster, seed=self.seed, updates=updates, warmup=warmup)

    def memory_need(self, candidate: Candidate) -> MemoryNeed:
        return memory_need(candidate.apply(self.recipe), self.profile.memory, self._placements[candidate.placement], self.memory)

    def _fitting(self) -> list[Candidate]:
        needs = {candidate: self.memory_need(candidate) for candidate in self.candidates}
        fitting = [candidate for candidate in self.candidates if not needs[candidate].shortfall]
        if not fitting:
            nearest = min(self.candidates, key=lambda candidate: needs[candidate].shortfall)
            kind, ratio = nearest.placement
            raise PlanError(
                f"none of {len(self.candidates)} settings fits into memory. The nearest one, {kind} {ratio}".rstrip()
                + f" with {nearest.shards} x {nearest.slots} environments, needs {needs[nearest]}: "
                f"use more or larger devices (--gpus, --memory), or a smaller training.micro_batch, now {self.recipe.training.micro_batch}"
            )
        return fitting

    def _rehearse_if_promising(self, candidate: Candidate, bounds: Mapping[Candidate, Bound]) -> bool:
        """Rehearse a candidate, unless it is already rehearsed, cannot win by its bound, or exceeds the budget. Returns whether it is now the fastest."""
        fastest = max((rehearsal.throughput for rehearsal in self.rehearsed.values()), default=0.0)
        if candidate in self.rehearsed or len(self.rehearsed) >= self.budget or bounds[candidate].throughput * BOUND_SLACK <= fastest:
            return False
        found = self.rehearsed[candidate] = self.rehearse(candidate)
        self._on_progress(len(self.rehearsed), self.budget, max(fastest, found.throughput))
        return found.throughput > fastest

    def _try_each_placement(self, ordered: Sequence[Candidate], bounds: Mapping[Candidate, Bound]) -> None:
        """Rehearse the most promising candidate of each placement. This takes at most half of the budget."""
        first: dict[object, Candidate] = {}
        for candidate in ordered:
            first.setdefault(candidate.placement, candidate)
        for candidate in list(first.values())[: max(self.budget // 2, 1)]:
            self._rehearse_if_promising(candidate, bounds)

    def _climb(self, ordered: Sequence[Candidate], bounds: Mapping[Candidate, Bound]) -> None:
        """Rehearse candidates that differ from the fastest one in one knob, the most promising first. Repeat as long as a faster one is found."""
        found_faster = True
        while found_faster:
            top = max(self.rehearsed, key=lambda candidate: self.rehearsed[candidate].throughput)
            found_faster = any(self._rehearse_if_promising(candidate, bounds) for candidate in ordered if candidate.is_a_step_from(top))

    def _ordered_choices(self, chosen: Candidate) -> list[Candidate]:
        """The chosen candidate, then the fastest rehearsed candidate of every other placement, then the rest by throughput."""
        ordered = sorted(self.rehearsed, key=lambda candidate: -self.rehearsed[candidate].throughput)
        fastest: dict[object, Candidate] = {chosen.placement: chosen}
        for candidate in ordered:
            fastest.setdefault(candidate.placement, candidate)
        return [*fastest.values(), *(candidate for candidate in ordered if candidate not in fastest.values())]

    def _rehearsed_candidate(self, candidate: Candidate) -> RehearsedCandidate:
        if candidate not in self.rehearsed:
            self.rehearsed[candidate] = self.rehearse(candidate)
        return RehearsedCandidate(candidate, self.bound(candidate), self.rehearsed[candidate], self.memory_need(candidate))

    def _knob_effect(self, knob: str, chosen: Candidate) -> KnobEffect | None:
        """The effect of `knob`; None if there is no other value to set it to."""
        recipes = replace(chosen, **{knob: getattr(Candidate.of(self.recipe), knob)})
        if recipes != chosen and recipes.placement in self._placements and not self.memory_need(recipes).shortfall:
            return KnobEffect(knob, recipes, self._rehearsed_candidate(recipes).throughput, recipes=True)
        others = [other for other in self._space.with_other_values(knob, chosen, self.cluster) if not self.memory_need(other).shortfall]
        if not others:
            return None
        other = max(others, key=lambda candidate: self.bound(candidate).estimate)
        return KnobEffect(knob, other, self._rehearsed_candidate(other).throughput, recipes=False)

    def _recipe_itself(self) -> RehearsedCandidate | None:
        """The recipe's own settings; None if its placement is impossible on the cluster, or if they do not fit into memory."""
        own = Candidate.of(self.recipe)
        return self._rehearsed_candidate(own) if own.placement in self._placements and not self.memory_need(own).shortfall else None
