"""Planning: bounds that hold, memory that is kept to, and a search that finds what trying everything would find."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvla3.cli import main
from rlvla3.config import Recipe, load_recipe, make_recipe
from rlvla3.planning.bound import update_bound
from rlvla3.planning.memory_fit import GIB, memory_need
from rlvla3.planning.rehearsal import rehearse, whole_waves
from rlvla3.planning.search import CANDIDATES_PER_REHEARSAL, PlanError, Search
from rlvla3.planning.space import Candidate, Space, parts_of
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.scheduling.placement import Cluster, place
from tests.support.rehearsals import PLANNED, planned_profile
from tests.support.thorough import thorough

CLUSTER = Cluster(1, 4)

PROFILES = {
    "simulators on the cores": {},
    "a large policy": {
        "train": {"on": "compute", "sizes": [0, 8], "seconds": [0.2, 3.0]},
        "infer": {"on": "compute", "sizes": [0, 16], "seconds": [0.4, 0.9]},
        "host": {"cores": [float(cores) for cores in range(1, 65)]},
    },
    "simulators on the devices": {"simulate": {"on": "simulation", "sizes": [0, 16], "seconds": [0.5, 0.9]}, "transfer": 1e6},
}
SPACE = Space(
    placements=(("colocated", ""), ("hybrid", "1:1"), ("disaggregated", "1:1"), ("disaggregated", "3:1")),
    shards=(1, 2, 4),
    slots=(1, 4),
    max_batch=(None, 2, 4),
    max_wait_ms=(0.0, 100.0, None),
    max_staleness=(0, 1),
)


def recipe(**sections: Any) -> Recipe:
    tree: dict[str, Any] = {"policy": {"chunk": 4}, "simulator": {"shards": 4}, "training": {"batch": 16, "steps": 2, "epochs": 1, "micro_batch": 8}}
    return make_recipe(tree | sections)


def bound_of(candidate: Candidate, costs: Profile) -> float:
    kind, ratio = candidate.placement
    return update_bound(candidate.apply(recipe()), costs, place(CLUSTER, kind, parts_of(ratio))).throughput


@pytest.mark.slow
@pytest.mark.parametrize("changes", [*list(PROFILES.values())[:1], *thorough(*list(PROFILES.values())[1:])], ids=PROFILES.keys())
def test_the_plan_is_as_good_as_trying_everything_in_a_tenth_of_the_tries(changes: dict[str, Any]):
    costs = planned_profile(**changes)
    search = Search(recipe(), costs, CLUSTER, SPACE)
    everything = {candidate: search.rehearse(candidate).throughput for candidate in search.candidates}
    plan = search.plan(best=1)

    assert plan.space == len(everything) >= 200
    assert plan.evaluations <= len(everything) / CANDIDATES_PER_REHEARSAL
    (best,) = plan.best
    assert best.throughput == everything[best.candidate]
    assert best.throughput >= 0.95 * max(everything.values())
    assert sum(found >= 0.95 * max(everything.values()) for found in everything.values()) < 0.25 * len(everything)  # else any choice would do


def test_where_bounds_mislead_the_search_climbs_knob_by_knob(monkeypatch: pytest.MonkeyPatch):
    """The settings that the bounds think least of are the fastest, and each knob that agrees with them is a gain: a quarter of the tries finds them."""
    search = Search(recipe(), planned_profile(), CLUSTER, SPACE)
    target = min(search.candidates, key=lambda candidate: search.bound(candidate).estimate)
    plain = rehearse(recipe(), planned_profile(), CLUSTER, updates=1)
    monkeypatch.setattr(search, "rehearse", lambda candidate: replace(plain, throughput=1e-3 * (10 - len(candidate.differs(target)))))
    search.budget = len(search.candidates) // 4
    assert search.plan(best=1).best[0].candidate == target


@pytest.mark.slow
def test_no_run_is_faster_than_its_bound():
    """Over enough updates for episodes to be as long as they are in the mean. A bound that nothing comes near would be no use."""
    reached = []
    for changes in PROFILES.values():
        costs = planned_profile(**changes)
        for candidate in list(SPACE.candidates(recipe(), CLUSTER))[::13]:
            found = rehearse(candidate.apply(recipe()), costs, CLUSTER, updates=20).throughput
            reached.append(found / bound_of(candidate, costs))
            assert found <= 1.03 * bound_of(candidate, costs), candidate
    assert sum(share > 0.85 for share in reached) > len(reached) / 3


def test_the_bound_names_what_is_slow():
    def stage(shards: int = 32, **changes: Any) -> str:
        return update_bound(recipe(simulator={"shards": shards}), planned_profile(**changes), place(CLUSTER, "disaggregated", (1, 1))).stage

    assert stage() == "cores"
    assert stage(train={"on": "compute", "seconds": [9.0]}) in ("trainer", "devices")
    assert stage(infer={"on": "compute", "seconds": [9.0]}) in ("generators", "devices")
    assert stage(simulate={"on": "nothing", "seconds": [99.0]}, shards=4) == "environments"
    assert stage(simulate={"on": "nothing", "seconds": [99.0]}) == "staleness"
    assert stage(simulate={"on": "simulation", "seconds": [9.0]}) == "simulators"


def test_a_measurement_covers_whole_waves():
    """Where the environments can take up the tickets of two updates at once, updates come in pairs, and a pair's first takes longer."""
    settings = recipe(simulator={"shards": 32}, engine={"max_batch": None, "max_wait_ms": 0.0})
    costs = planned_profile(episode_steps=[16], simulate={"on": "simulation", "seconds": [0.3]})
    assert [whole_waves(staleness, 4) for staleness in (0, 1, 2, 3, 4)] == [4, 4, 6, 4, 5]
    found = {updates: rehearse(settings, costs, CLUSTER, updates=updates).throughput for updates in (4, 5, 12)}
    assert found[4] == pytest.approx(found[12], rel=0.01)
    assert found[5] != pytest.approx(found[12], rel=0.01)


# Memory

MEMORY = {"device": 40 * GIB, "host": 64 * GIB, "generator": 8 * GIB, "inference": GIB, "trainer": 64 * GIB, "rank": 2 * GIB} | {
    "activations": 0.5 * GIB,
    "simulator": 3 * GIB,
    "slot": GIB,
    "process": 2 * GIB,
    "environment": 0.5 * GIB,
}


def test_what_is_on_a_device_at_the_same_time_is_summed():
    costs = planned_profile(memory=MEMORY)
    settings = recipe(simulator={"shards": 8, "slots": 3}, engine={"max_batch": 4, "max_wait_ms": 0.0})
    colocated = memory_need(settings, costs.memory, place(CLUSTER, "colocated"), None)
    assert colocated.device == {"trainer": (64 / 4 + 2 + 0.5 * 8) * GIB, "generator": (8 + 4) * GIB, "simulators": 2 * (3 + 3) * GIB}
    assert colocated.host == {"simulators": 8 * (2 + 1.5) * GIB}
    assert colocated.shortfall == 6 * GIB
    assert str(colocated) == "46.0 GiB per device (trainer 22.0, generator 12.0, simulators 12.0), 6.0 GiB more than the 40.0 GiB available"
    apart = memory_need(settings, costs.memory, place(CLUSTER, "disaggregated", (1, 1)), None)
    assert apart.device == {"trainer": (64 / 2 + 2 + 4) * GIB} or sum(apart.device.values()) == 38 * GIB
    assert apart.shortfall == 0


def test_what_does_not_fit_is_never_proposed_and_never_rehearsed(monkeypatch: pytest.MonkeyPatch):
    search = Search(recipe(), planned_profile(memory=MEMORY), CLUSTER, SPACE)
    plan = search.plan(best=3)
    assert 0 < plan.fitting < plan.space
    assert all(not search.memory_need(candidate).shortfall for candidate in search.rehearsed)
    assert all(sum(choice.memory_need.device.values()) <= 40 * GIB for choice in plan.best)


def test_where_nothing_fits_it_says_what_is_short_and_by_how_much():
    with pytest.raises(
        PlanError, match=r"none of \d+ settings fits into memory.* needs 31.0 GiB per device .*trainer 22.0.*21.0 GiB more than the 10.0 GiB"
    ) as error:
        Search(recipe(), planned_profile(memory=MEMORY), CLUSTER, SPACE, memory=10 * GIB).plan(best=1)
    assert "--gpus" in str(error.value) and "training.micro_batch, now 8" in str(error.value)


# Staleness is a learning decision


def test_staleness_stays_within_its_limit_and_the_batch_is_the_recipes():
    costs = planned_profile()
    for most, values in ((0, (0,)), (1, (0, 1)), (3, (0, 1, 2, 3))):
        space = Space.of(recipe(), costs, CLUSTER, most)
        assert space.max_staleness == values
    for candidate in space.candidates(recipe(), CLUSTER):
        applied = candidate.apply(recipe())
        assert (applied.training, applied.algorithm, applied.policy) == (recipe().training, recipe().algorithm, recipe().policy)


def test_environments_of_one_process_are_planned_only_where_a_process_may_hold_several():
    for simulator, several in (({"name": "metaworld"}, False), ({"name": "maniskill"}, True), ({"name": "libero", "slots": 8}, True)):
        space = Space.of(recipe(simulator={"shards": 4, "tasks": ["a"], **simulator}), planned_profile(), CLUSTER, 1)
        assert (len(space.slots) > 1) == several, simulator


def test_the_least_staleness_is_taken_among_settings_that_are_as_fast():
    """One environment: nothing that is not being waited for can be trained on, and staleness is no use."""
    lonely = Space((("colocated", ""),), (1,), (1,), (None,), (0.0,), (4, 2, 1))
    costs = planned_profile(simulate={"on": "nothing", "seconds": [50.0]}, train={"on": "nothing", "seconds": [0.0]})
    search = Search(recipe(), costs, Cluster(1, 1), lonely)
    search.budget = 3
    assert search.plan(best=1).best[0].candidate.max_staleness == 1


# From the command line


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    tree = {"policy": {"name": "not_installed:Policy", "chunk": 4}, "simulator": {"name": "not_installed:Simulator", "shards": 4}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree | {"training": {"batch": 4, "steps": 2, "epochs": 1, "micro_batch": 8}}))
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(PLANNED | {"memory": MEMORY}))
    return ["plan", str(tmp_path / "recipe.yaml"), "--profile", str(tmp_path / "profile.yaml")]


def test_the_best_settings_can_be_pasted(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    figures = tmp_path / "plan.json"
    assert main([*words, "--gpus", "4", "--memory", "80", "--best", "2", "--json", str(figures)]) == 0
    said = capsys.readouterr().out
    content = json.loads(figures.read_text())
    best = content["best"][0]
    (pasted,) = [line.split() for line in said.splitlines() if line.startswith("   placement.kind=")][:1]
    chosen = load_recipe(tmp_path / "recipe.yaml", pasted)
    of_yaml = make_recipe(yaml.safe_load(said.split("as YAML:\n")[1]))
    for section, settings in best["settings"].items():
        for key, value in settings.items():
            assert getattr(getattr(chosen, section), key) == getattr(getattr(of_yaml, section), key) == value
    again = Search(chosen, planned_profile(memory=MEMORY), CLUSTER, Space.of(chosen, planned_profile(), CLUSTER, 1)).rehearse(Candidate.of(chosen))
    assert again.throughput == pytest.approx(best["throughput"])
    assert "bounded by" in said and "Plan 1 with one setting changed:" in said
    assert len(content["best"]) == 2 and content["evaluations"] <= content["space"] / CANDIDATES_PER_REHEARSAL
    assert all(worth["throughput"] > 0 for worth in content["worth"]) and len(content["worth"]) >= 5


def test_two_searches_say_the_same(words: list[str], capsys: pytest.CaptureFixture[str]):
    said = []
    for _ in range(2):
        assert main([*words, "--cluster", "1x2", "--memory", "120"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "give --gpus N"),
        (["--gpus", "4", "--cluster", "1x4"], "give --gpus N"),
        (["--gpus", "6", "--hosts", "4"], "--gpus 6 cannot be divided evenly among 4 hosts"),
        (["--gpus", "1", "--memory", "10"], "none of"),
        (["--gpus", "1", "--memory", "0"], "more than 0 GiB"),
        (["--gpus", "1", "--max-staleness", "-1"], "give 0 updates or more"),
    ],
)
def test_what_cannot_be_planned_is_refused(words: list[str], options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]):
    assert main([*words, *options]) == 2
    assert complaint in capsys.readouterr().err
