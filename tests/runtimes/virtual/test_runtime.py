"""The virtual runtime: the laws of the engine over many seeded runs with faults."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from rlvla3.config import Recipe
from rlvla3.runtimes.virtual.faults import Fault, draw_faults
from rlvla3.runtimes.virtual.runtime import RehearsedUpdate, StuckError, VirtualRuntime
from rlvla3.scheduling.placement import Cluster, Placement, place
from tests.support.rehearsals import small_profile, small_recipe

FEW, MANY = range(100), range(100, 1000)
"""Seeds of virtual runs with faults, for the test of the laws."""

PLACEMENTS = [place(Cluster(1, 1), "colocated"), place(Cluster(2, 2), "disaggregated", (1, 1)), place(Cluster(1, 3), "separate", (1, 1, 1))]


def run(recipe: Recipe, placement: Placement | None = None, **given_: object) -> tuple[VirtualRuntime, list[RehearsedUpdate]]:
    runtime = VirtualRuntime(recipe, small_profile(), placement or place(Cluster(1, 2), "colocated"), **given_)  # type: ignore[arg-type]
    return runtime, list(runtime.train())


@pytest.mark.parametrize("mode", ["sync", "train_async", "rollout_async", "full_async"])
def test_every_mode_trains_every_ticket_once(mode):
    runtime, published = run(small_recipe(engine={"mode": mode}))
    assert [episode.ticket.index for version in published for episode in version.episodes] == list(range(40))
    assert sum(episode.steps for version in published for episode in version.episodes) == sum(map(runtime.profile.steps, range(40)))
    for worker in runtime.workers():
        assert sum(worker.busy.values()) + sum(worker.idle.values()) == pytest.approx(1, abs=1e-9)


def test_sync_is_never_stale_and_never_streams():
    _, published = run(small_recipe(engine={"mode": "sync"}))
    assert all(version.staleness == {0: 8} for version in published)


def test_asynchronous_modes_are_faster_in_turn():
    ends = [run(small_recipe(engine={"mode": mode}, training={"updates": 12}))[1][-1].at for mode in ("sync", "train_async", "rollout_async", "full_async")]
    assert ends == sorted(ends, reverse=True) and ends[-1] < 0.8 * ends[0]


def test_two_runs_of_one_seed_are_the_same_and_of_another_are_not():
    ends = [[version.at for version in run(small_recipe(), seed=seed)[1]] for seed in (1, 1, 2)]
    assert ends[0] == ends[1] != ends[2]


@pytest.mark.parametrize("seeds", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
def test_the_laws_hold_whatever_goes_wrong(seeds: range):
    """Over many runs with drawn settings, placements, faults and delays: every ticket trained once, staleness bounded, no deadlock, all time accounted for."""
    happened: Counter[str] = Counter()
    for seed in seeds:
        drawn = random.Random(seed)
        staleness = drawn.choice([0, 1, 2, 4])
        group = drawn.choice([1, 2, 4])
        recipe = small_recipe(
            simulator={"shards": drawn.randint(1, 6), "slots": drawn.randint(1, 3)},
            training={"updates": 3, "steps": drawn.choice([1, 2]), "micro_batch": drawn.choice([1, 3, 8, 64])},
            algorithm={"group_size": group, "advantage": "grpo" if group > 1 else "gae"},
            engine={
                "mode": drawn.choice(["sync", "full_async"]),
                "max_staleness": staleness,
                "max_batch": drawn.choice([None, "auto", 1, 2, 8]),
                "max_wait_ms": drawn.choice([None, 0.0, 300.0]),
                "streaming": drawn.random() < 0.5,
            },
        )
        placement = drawn.choice(
            [place(Cluster(1, 1), "colocated"), place(Cluster(2, 2), "disaggregated", (1, 1)), place(Cluster(1, 3), "separate", (1, 1, 1))]
        )
        faults = draw_faults(seed, drawn.randint(0, 5), within=30.0)
        happened.update(fault.what for fault in faults)
        delays = (lambda drawn=drawn: drawn.expovariate(2.0)) if drawn.random() < 0.3 else None
        runtime, published = run(recipe, placement, seed=seed, faults=faults, delays=delays)

        assert [episode.ticket.index for version in published for episode in version.episodes] == list(range(24)), seed
        for version in published:
            for episode in version.episodes:
                assert version.version - 1 - staleness <= episode.oldest <= episode.newest <= version.version - 1, seed
                assert episode.steps == runtime.profile.steps(episode.ticket.index), seed
        for worker in runtime.workers():
            assert sum(worker.busy.values()) + sum(worker.idle.values()) == pytest.approx(1, abs=1e-6), (seed, worker)
        for generator in runtime.generators:
            assert generator.largest <= (recipe.engine.batch_limit or 10**9), seed
    assert min(happened.values()) > len(seeds) // 10


@pytest.mark.parametrize("seeds", [range(50), pytest.param(range(50, 400), marks=pytest.mark.slow)], ids=["few", "many"])
def test_tickets_that_kill_their_shards_are_set_aside_and_no_others(seeds: range):
    for seed in seeds:
        drawn = random.Random(seed)
        group = drawn.choice([1, 2, 4])
        recipe = small_recipe(
            simulator={"shards": drawn.randint(1, 4), "slots": drawn.randint(1, 3)},
            training={"updates": 3, "steps": drawn.choice([1, 2]), "micro_batch": drawn.choice([1, 3, 8, 64])},
            algorithm={"group_size": group, "advantage": "grpo" if group > 1 else "gae"},
            engine={"mode": drawn.choice(["sync", "full_async"]), "streaming": drawn.random() < 0.5, "max_set_aside": 24},
        )
        killers = set(drawn.sample(range(24), drawn.choice([1, 2, 8, 24])))
        deaths = draw_faults(seed, drawn.randint(0, 2), within=30.0)
        _, published = run(recipe, drawn.choice(PLACEMENTS), seed=seed, faults=[*(Fault(0.0, "ticket kills its shard", which) for which in killers), *deaths])
        episodes = [episode for version in published for episode in version.episodes]
        assert [episode.ticket.index for episode in episodes] == list(range(24)), seed
        set_aside = {episode.ticket.index for episode in episodes if episode.set_aside}
        assert set_aside >= killers, seed
        assert len(set_aside - killers) <= len(deaths), seed  # a shard that dies by chance, while it runs a suspected ticket alone, looks like its victim
        assert sum(sum(version.staleness.values()) for version in published) == 24 - len(set_aside), seed


@pytest.mark.parametrize("mode", ["sync", "full_async"])
def test_trajectories_take_their_time_to_the_trainer_and_none_is_lost(mode):
    recipe, placement = small_recipe(engine={"mode": mode}), place(Cluster(2, 1), "colocated")
    costs = {"send": {"on": "coordinator", "seconds": [0.2]}, "receive": {"on": "nothing", "seconds": [0.1]}, "across": 1.5}
    ends = []
    for profile in (small_profile(), small_profile(**costs)):
        published = list(VirtualRuntime(recipe, profile, placement).train())
        assert [episode.ticket.index for version in published for episode in version.episodes] == list(range(40))
        ends.append(published[-1].at)
    decisions = sum(episode.decisions for version in published for episode in version.episodes)
    assert ends[1] > ends[0] + 0.1 * decisions  # taken in by one trainer
    assert mode != "sync" or ends[1] > ends[0] + 0.3 * decisions  # and before that, sent when all have ended


def test_a_deadlock_is_said_and_not_waited_for(monkeypatch):
    monkeypatch.setattr("rlvla3.runtimes.virtual.trainer.VirtualTrainer.arrived", lambda self, finished: None)
    with pytest.raises(StuckError, match=r"no worker can go on after [\d.]+ s: .*trajectories"):
        run(small_recipe())
