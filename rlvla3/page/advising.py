"""Which one or two settings to change, and what a rehearsal says that they give.

The run's own times are its profile (planning/observed_profile.py). Each setting that could help is rehearsed by itself, and then the best one together with
each of the others. Rehearsals are made on the virtual clock: all together take seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from rlvla3.config import Recipe, make_recipe
from rlvla3.errors import ExplainedError, RecipeError
from rlvla3.observability.formatting import percent, quantity
from rlvla3.observability.worker_times import kind_of_name
from rlvla3.planning.observed_profile import Observed, observed_profile
from rlvla3.planning.rehearsal import Rehearsal, rehearse, whole_waves
from rlvla3.planning.space import MAX_SLOTS
from rlvla3.runtimes.virtual.costs import NOTHING, Profile
from rlvla3.scheduling.placement import Cluster, Placement
from rlvla3.simulators.registry import may_have_slots

JsonObject = Mapping[str, Any]

WORTH_IT = 1.05
"""A setting that makes a run faster by a smaller factor is not mentioned: rehearsals are not that exact."""

MOST_STALENESS = 4
"""Settings with more staleness are not proposed: what it costs in learning, a rehearsal does not know."""

MOST_DECISIONS, ALL_DECISIONS = 40_000, 120_000
"""Decisions of one rehearsal, and of all of them together. On one core, a second has 30,000 to 60,000."""

LARGEST = 1e12
"""Larger figures and more seconds are no measurement."""

ALWAYS_BUSY = 0.9
"""A trainer that waits for less than the rest of its time bounds the run. All settings that are tried only make it wait less."""

MEASURED = 4
"""Updates that a rehearsal measures."""

ROUGH, WRONG = 0.25, 0.5
"""Where the rehearsal of the run as it is differs from the run by more than ROUGH, it is said that figures are rough. By more than WRONG, there are none."""

Settings = tuple[str, ...]
"""Settings as a user writes them, such as ("engine.max_staleness=2",)."""


@dataclass(frozen=True, slots=True)
class Advice:
    """text: a sentence. settings: what to change; empty where nothing helps. gain: how many times faster the run would be, by rehearsal."""

    text: str
    settings: Settings = ()
    gain: float = 1.0


def advise(recipe: Recipe, observed: Observed | None) -> Advice:
    """What to change. observed: None where too little is known of the run."""
    if observed is None:
        return Advice("No setting can be recommended before a few updates are finished.")
    if why_not := _why_no_rehearsal(recipe):
        return Advice(why_not)
    if observed.trainer_busy > ALWAYS_BUSY:
        fewer = ", fewer training.epochs" if recipe.training.epochs > 1 else ""
        return Advice(f"No setting of rollout makes it faster, because the trainer is always busy. A faster device{fewer} or more training.ranks would.")
    try:
        bench = _Bench(recipe, observed)
    except ExplainedError as error:  # such as a run that would be stuck
        return Advice(f"No setting can be recommended, because this run cannot be rehearsed: {str(error).rstrip('.')}.")
    off = abs(bench.own / observed.throughput - 1)
    known = f"the rehearsal of the run as it is gives {quantity(bench.own)} steps/s, and it made {quantity(observed.throughput)}"
    if off > WRONG:
        return Advice(f"No setting can be recommended, because {known}: rehearsals say too little of it.")
    caution = f" Take this as rough: {known}." if off > ROUGH else ""
    best, gain = bench.climb()
    if not best:
        return Advice(f"No setting that was rehearsed makes it faster by 5 % or more.{caution}")
    more = " Staler data may learn less for each episode." if any("max_staleness" in setting for setting in best) else ""
    return Advice(f"Set {' and '.join(best)}: a rehearsal says {percent(gain - 1)} more steps/s.{more}{caution}", best, gain)


def observe(recipe: Recipe, updates: Sequence[JsonObject], *, decisions: Sequence[int], batch: float | None, cores: float | None, gpu: bool) -> Observed | None:
    """What a run did in `updates`, lines of metrics.jsonl in their order. None where these are too few.

    decisions: of some episodes. batch: the mean size of an inference, if it is known.
    """
    if len(updates) < 2:
        return None
    first, last = updates[0], updates[-1]
    wall = last["wall_seconds"] - first["wall_seconds"]
    episodes = last["tickets"]["trained"] - first["tickets"]["trained"]
    steps = last["environment_steps"] - first["environment_steps"]
    if not 0 < wall < LARGEST or episodes <= 0 or steps <= 0:
        return None
    seconds: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    names: defaultdict[str, set[str]] = defaultdict(set)
    waited = 0.0
    for before, line in pairwise(updates):
        passed = min(max(line["wall_seconds"] - before["wall_seconds"], 0.0), wall)
        for worker in line["workers"]:
            kind = kind_of_name(worker["name"])
            names[kind].add(worker["name"])
            waited += _share(worker["idle"].get("decision")) * passed
            for stage, share in worker["busy"].items():
                seconds[kind][stage] += _share(share) * passed
    return Observed(
        seconds={kind: dict(stages) for kind, stages in seconds.items()},
        waited=waited,
        wall=wall,
        workers={kind: len(members) for kind, members in names.items()},
        updates=len(updates) - 1,
        episodes=episodes,
        steps=steps,
        lengths=_lengths(decisions, recipe.policy.chunk, steps / episodes),
        figures={name: value for name in ("inference_of_1_ms", "inference_each_ms") if (value := _mean(last, name)) is not None},
        batch=batch if batch is not None else _mean(last, "expected_batch"),
        cores=cores,
        gpu=gpu,
    )


def _share(share: float | None) -> float:
    return min(max(share or 0.0, 0.0), 1.0)


def _lengths(decisions: Sequence[int], chunk: int, mean: float) -> list[int]:
    """The steps of episodes with so many decisions, with this mean. An episode ends somewhere in its last chunk."""
    if not decisions:
        return []
    stretch = mean / (fmean(decisions) * chunk)
    return [max(round(count * chunk * stretch), 1) for count in decisions]


def _mean(update: JsonObject, name: str) -> float | None:
    """The mean of a figure of batching over the generators that have it. None where none has it: this part of a line has no schema."""
    generators = update.get("batching")
    found = [chosen.get(name) for chosen in generators if isinstance(chosen, dict)] if isinstance(generators, list) else []
    values = [value for value in found if isinstance(value, int | float) and abs(value) < LARGEST]
    return fmean(values) if values else None


def _why_no_rehearsal(recipe: Recipe) -> str:
    if len(recipe.mixed) > 1:
        return "No setting can be recommended: a rehearsal is made of one simulator, and this run mixes several."
    if recipe.runtime != "local":
        return "For runs on a Ray cluster, `rlvla3 plan` finds the fastest settings (docs/planning.md)."
    return ""


class _Bench:
    """Rehearses a run with some settings changed. own: environment steps per second of the run as it is. Raises ExplainedError where it cannot be rehearsed.

    Where the first rehearsal is faster than the run was, the simulators waited for decisions longer than inference takes: processes wake up late, or other
    programs hold the cores. This time is added to each decision.

    Settings for which no decisions are left are not tried.
    """

    def __init__(self, recipe: Recipe, observed: Observed) -> None:
        self._recipe, self._observed, self._left = recipe, observed, float(ALL_DECISIONS)
        self._profile: Profile = observed_profile(recipe, observed)
        if NOTHING in (self._profile.simulate, self._profile.infer) and self._profile.train == NOTHING:
            raise RecipeError("no update says that its workers were busy")
        first = self._rehearsal(recipe)
        if first.throughput > observed.throughput and (late := self._waited_late(first)) > 0:
            self._profile = self._profile.model_copy(update={"turn": self._profile.turn.model_copy(update={"waits": late})})
            first = self._rehearsal(recipe)
        self.own = first.throughput

    def _waited_late(self, first: Rehearsal) -> float:
        """How much longer a shard of the run waited for a decision than one of the rehearsal, in seconds."""
        of_step = first.idle.get("shard", {}).get("decision", 0.0) * self._recipe.simulator.shards / first.throughput
        return max(self._observed.waited / self._observed.steps - of_step, 0.0) * self._recipe.policy.chunk

    def climb(self) -> tuple[Settings, float]:
        """The best one or two settings, and how many times faster the run is with them."""
        best, fastest = Settings(), self.own
        for _ in range(2):
            keys = {setting.partition("=")[0] for setting in best}
            others = [setting for setting in _could_help(self._recipe, self._observed) if setting.partition("=")[0] not in keys]
            tried = {(*best, setting): self._throughput((*best, setting)) for setting in others}
            top = max(tried, key=lambda settings: tried[settings], default=best)
            if tried.get(top, 0.0) < WORTH_IT * fastest:
                break
            best, fastest = top, tried[top]
        return best, fastest / self.own

    def _throughput(self, settings: Settings) -> float:
        """Environment steps per second; 0 where settings do not fit together."""
        try:
            return self._rehearsal(self._changed(settings)).throughput
        except ExplainedError:
            return 0.0

    def _changed(self, settings: Settings) -> Recipe:
        return make_recipe(self._recipe.model_dump(mode="json"), settings) if settings else self._recipe

    def _rehearsal(self, recipe: Recipe) -> Rehearsal:
        ahead = recipe.engine.max_staleness
        decisions = (whole_waves(ahead, MEASURED) + 2 * ahead + 2) * recipe.training.batch * fmean(self._profile.episode_steps) / self._profile.chunk
        if decisions > min(MOST_DECISIONS, self._left):
            raise RecipeError(f"it would take {quantity(decisions)} decisions, and so more than a few seconds; `rlvla3 plan` takes its time")
        self._left -= decisions
        generators, ranks = range(recipe.engine.generators), range(recipe.training.ranks)
        devices = max(len(generators), len(ranks))
        placement = Placement(Cluster(1, devices), tuple(generators), tuple(generators), tuple(ranks))
        return rehearse(recipe, self._profile, placement, updates=whole_waves(ahead, MEASURED))


def _could_help(recipe: Recipe, observed: Observed) -> Iterator[str]:
    """Settings that may make a run faster, one at a time."""
    engine, simulator = recipe.engine, recipe.simulator
    if engine.max_staleness < MOST_STALENESS and not engine.offload:
        yield f"engine.max_staleness={engine.max_staleness + 1}"
    if not engine.streaming and not engine.offload:
        yield "engine.streaming=true"
    if engine.max_batch != "auto":
        yield "engine.max_batch=auto"
    if observed.cores is not None and simulator.cores is None:
        yield f"simulator.shards={2 * simulator.shards}"
    if simulator.slots < MAX_SLOTS and may_have_slots(simulator):
        yield f"simulator.slots={2 * simulator.slots}"
