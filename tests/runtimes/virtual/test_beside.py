"""Evaluations beside training on the virtual clock, over many seeded runs with faults."""

from __future__ import annotations

import random

import pytest

from rlvla3.config import Recipe
from rlvla3.runtimes.virtual.faults import draw_faults
from rlvla3.runtimes.virtual.generator import VirtualGenerator
from rlvla3.runtimes.virtual.runtime import RehearsedUpdate, VirtualRuntime
from rlvla3.scheduling.placement import Cluster, Placement, place
from tests.support.rehearsals import small_profile, small_recipe

COLOCATED = place(Cluster(1, 2), "colocated")
PLACEMENTS = [place(Cluster(1, 1), "colocated"), place(Cluster(2, 2), "disaggregated", (1, 1)), place(Cluster(1, 3), "separate", (1, 1, 1))]


def run(recipe: Recipe, placement: Placement = COLOCATED, **given: object) -> tuple[VirtualRuntime, list[RehearsedUpdate]]:
    runtime = VirtualRuntime(recipe, small_profile(), placement, **given)  # type: ignore[arg-type]
    return runtime, list(runtime.train())


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(60, 600), marks=pytest.mark.slow)], ids=["few", "many"])
def test_every_evaluation_ends_on_its_version_and_training_keeps_its_laws(seeds: range) -> None:
    evaluated = 0
    for seed in seeds:
        drawn = random.Random(seed)
        every, staleness, episodes = drawn.choice([1, 2, 3]), drawn.choice([0, 1, 2]), drawn.randint(1, 20)
        recipe = small_recipe(
            simulator={"shards": drawn.randint(1, 6), "slots": drawn.randint(1, 3)},
            training={"updates": 6, "micro_batch": drawn.choice([1, 8, 64])},
            engine={"mode": drawn.choice(["sync", "full_async"]), "max_staleness": staleness, "streaming": drawn.random() < 0.5},
            evaluation={"every": every, "episodes": episodes, "after": False},
        )
        faults = draw_faults(seed, drawn.randint(0, 4), within=40.0)
        delays = (lambda drawn=drawn: drawn.expovariate(2.0)) if drawn.random() < 0.3 else None
        runtime, published = run(recipe, drawn.choice(PLACEMENTS), seed=seed, faults=faults, delays=delays)

        assert [episode.ticket.index for version in published for episode in version.episodes] == list(range(48)), seed
        for version in published:
            for episode in version.episodes:
                assert version.version - 1 - staleness <= episode.oldest <= episode.newest <= version.version - 1, seed
        versions = [evaluation.version for evaluation in runtime.evaluations]
        assert versions[0] == every and versions == sorted(set(versions)) and not any(version % every for version in versions), seed
        for evaluation in runtime.evaluations:
            assert sorted(episode.ticket.index for episode in evaluation.episodes) == list(range(episodes)), seed
            assert {(episode.oldest, episode.newest) for episode in evaluation.episodes} == {(evaluation.version, evaluation.version)}, seed
        evaluated += len(versions)
        for worker in runtime.workers():
            assert sum(worker.busy.values()) + sum(worker.idle.values()) == pytest.approx(1, abs=1e-6), (seed, worker)
    assert evaluated > 2 * len(seeds)


@pytest.mark.parametrize("seed", range(40))
def test_in_sync_training_has_the_same_batches_as_without_evaluations(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same decisions share an inference, so the weights are the same to the last bit."""
    drawn = random.Random(seed)
    batches: list[list[list[tuple[int, int]]]] = []
    end = VirtualGenerator.end

    async def noted(self: VirtualGenerator, batch: list) -> None:  # type: ignore[type-arg]
        kinds = {request.episode.ticket.beside for request in batch}
        assert len(kinds) == 1, "a batch mixes training and evaluation"
        if kinds == {False}:
            batches[-1].append(sorted((request.episode.ticket.index, request.episode.decisions) for request in batch))
        await end(self, batch)

    monkeypatch.setattr(VirtualGenerator, "end", noted)
    shards, slots = drawn.randint(1, 5), drawn.randint(1, 3)
    for every in (0, drawn.choice([1, 2])):
        batches.append([])
        recipe = small_recipe(
            simulator={"shards": shards, "slots": slots},
            training={"updates": 6},
            engine={"mode": "sync"},
            evaluation={"every": every, "episodes": 1 + seed, "after": False},
        )
        runtime, _ = run(recipe, place(Cluster(1, 1), "colocated"), seed=seed)
        assert bool(every) == bool(runtime.evaluations)
    assert batches[0] == batches[1]


def test_where_the_trainer_is_the_bottleneck_an_evaluation_costs_training_nothing() -> None:
    """Slots are idle for long, and are left at once when training needs them."""
    ends = []
    for every in (0, 4):
        recipe = small_recipe(training={"updates": 16}, evaluation={"every": every, "episodes": 8, "after": False})
        slow = {"on": "compute", "sizes": [0, 8], "seconds": [2.0, 10.0]}
        runtime = VirtualRuntime(recipe, small_profile(train=slow), place(Cluster(1, 3), "separate", (1, 1, 1)), seed=0)
        ends.append(list(runtime.train())[-1].at)
        assert len(runtime.evaluations) == every
    assert ends[1] < 1.02 * ends[0]
