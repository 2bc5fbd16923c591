"""What to change: the costs that are read off a run are those that it was made with, and the advice keeps what it promises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvla3.config import Recipe, make_recipe
from rlvla3.page.advising import _could_help, advise, observe
from rlvla3.planning.observed_profile import Observed, observed_profile
from rlvla3.planning.rehearsal import rehearse
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.runtimes.virtual.runtime import VirtualRuntime
from rlvla3.scheduling.placement import Cluster, place
from rlvla3.simulators.builtin import BUILT_IN
from rlvla3.types import TicketCounts

ONE = Cluster(1, 1)
CORES = 4.0
BASE: dict[str, Any] = {
    "name": "made up",
    "source": "a test",
    "chunk": 5,
    "episode_steps": [40, 50, 60],
    "reset": {"on": "cores", "seconds": [0.05]},
    "simulate": {"on": "cores", "seconds": [0.1]},
    "infer": {"on": "cores", "sizes": [0, 8], "seconds": [0.02, 0.06]},
    "train": {"on": "cores", "seconds": [0.005]},
    "host": {"cores": [1, 2, 3, 4]},
}


def recipe(**engine: Any) -> Recipe:
    return make_recipe({"policy": {"chunk": 5}, "simulator": {"shards": 2}, "training": {"batch": 16, "updates": 12, "epochs": 2}, "engine": engine})


def lines_of(run: Recipe, profile: Profile) -> tuple[list[dict[str, Any]], list[int]]:
    """The lines that a run with these costs would leave, and the decisions of its episodes."""
    runtime = VirtualRuntime(run, profile, place(ONE, "colocated"))
    lines: list[dict[str, Any]] = []
    decisions: list[int] = []
    spent, steps = runtime.board.read(), 0
    for done in runtime.train():
        steps += sum(episode.steps for episode in done.episodes)
        decisions += [episode.decisions for episode in done.episodes]
        trained = run.training.batch * done.version
        workers = [{"name": time.name, "busy": dict(time.busy), "idle": dict(time.idle)} for time in runtime.board.shares(spent)]
        spent = runtime.board.read()
        counts = asdict(TicketCounts(issued=trained, trained=trained))
        lines.append({"update": done.version, "wall_seconds": done.at, "environment_steps": steps, "tickets": counts, "workers": workers, "batching": []})
    return lines[3:-1], decisions


def observed_of(run: Recipe, profile: Profile) -> Observed:
    lines, decisions = lines_of(run, profile)
    observed = observe(run, lines, decisions=decisions, batch=1.5, cores=CORES, gpu=False)
    assert observed is not None
    return observed


def changed(run: Recipe, settings: tuple[str, ...]) -> Recipe:
    return make_recipe(run.model_dump(mode="json"), settings)


@pytest.mark.parametrize("mode", ["sync", "full_async"])
def test_the_costs_are_read_off_a_run_that_has_cores_enough(mode):
    run, profile = recipe(mode=mode), Profile.model_validate(BASE)
    found = observed_profile(run, observed_of(run, profile))
    assert found.simulate.work(1) == pytest.approx(0.1, rel=0.02)
    assert found.reset.work(1) == pytest.approx(0.05, rel=0.02)
    assert found.train.work(1) == pytest.approx(0.005, rel=0.05)
    assert fmean(found.episode_steps) == pytest.approx(50, rel=0.05)


CASES: Mapping[str, dict[str, Any]] = {
    "simulators": {"simulate": {"on": "cores", "seconds": [0.3]}},
    "training": {"train": {"on": "cores", "seconds": [0.05]}},
    "balanced": {"train": {"on": "cores", "seconds": [0.015]}},
}


@pytest.mark.parametrize("mode", ["sync", "full_async"])
@pytest.mark.parametrize("case", CASES)
def test_the_run_as_it_is_is_rehearsed_as_fast_as_it_was(case, mode):
    run, profile = recipe(mode=mode), Profile.model_validate(BASE | CASES[case])
    observed = observed_of(run, profile)
    again = rehearse(run, observed_profile(run, observed), ONE)
    assert again.throughput == pytest.approx(observed.throughput, rel=0.12)


@pytest.mark.parametrize("mode", ["sync", "full_async"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_advised_gives_what_it_promises(case, mode):
    run, profile = recipe(mode=mode), Profile.model_validate(BASE | CASES[case])
    advice = advise(run, observed_of(run, profile))
    before, after = (rehearse(settings, profile, ONE).throughput for settings in (run, changed(run, advice.settings)))
    assert after / before == pytest.approx(advice.gain, rel=0.2)
    assert after >= before


def test_more_simulators_are_advised_where_simulation_is_the_slow_part():
    run = recipe()
    advice = advise(run, observed_of(run, Profile.model_validate(BASE | CASES["simulators"])))
    assert any(setting.startswith("simulator.s") for setting in advice.settings)
    assert "a rehearsal says" in advice.text


@pytest.mark.parametrize(("name", "several"), [*((name, name == "maniskill") for name in BUILT_IN), ("gymnasium:CartPole-v1", False), ("my:Own", False)])
def test_environments_of_one_process_are_advised_only_where_a_process_may_hold_several(name, several):
    run = recipe()
    single = run.model_copy(update={"simulator": run.simulator.model_copy(update={"name": name})})
    observed = observed_of(run, Profile.model_validate(BASE | CASES["simulators"]))
    assert any("simulator.slots" in setting for setting in _could_help(single, observed)) == several
    doubled = single.model_copy(update={"simulator": single.simulator.model_copy(update={"slots": 2})})
    assert "simulator.slots=4" in _could_help(doubled, observed), "the user knows that this simulator can"


def test_nothing_is_advised_where_training_is_the_slow_part():
    run = recipe()
    advice = advise(run, observed_of(run, Profile.model_validate(BASE | CASES["training"])))
    assert advice.settings == ()
    assert "No setting" in advice.text


def test_the_overlap_of_rollout_and_training_is_advised_for_a_synchronous_run():
    run = recipe(mode="sync")
    advice = advise(run, observed_of(run, Profile.model_validate(BASE | CASES["balanced"])))
    assert any(setting.startswith(("engine.max_staleness", "engine.streaming", "simulator.s")) for setting in advice.settings)


def test_without_a_settled_update_nothing_is_advised():
    run = recipe()
    assert observe(run, [], decisions=[], batch=None, cores=None, gpu=False) is None
    assert "before a few updates" in advise(run, None).text


def test_a_run_of_several_simulators_is_not_rehearsed():
    run = make_recipe({"policy": {"chunk": 5}, "simulators": {"one": {"name": "metaworld", "tasks": ["reach-v3"]}, "two": {"name": "gymnasium:CartPole-v1"}}})
    observed = observed_of(recipe(), Profile.model_validate(BASE))
    assert "mixes several" in advise(run, observed).text


def test_a_rehearsal_that_would_take_long_is_left_to_plan():
    run = recipe()
    large = run.model_copy(update={"training": run.training.model_copy(update={"batch": 100_000})})
    assert "rlvla3 plan" in advise(large, observed_of(run, Profile.model_validate(BASE))).text


@pytest.mark.parametrize("batching", [7, "x", [3, {"expected_batch": 10**400, "inference_of_1_ms": True}, {"inference_each_ms": math.nan}], {"a": 1}])
@pytest.mark.parametrize("wall", [None, 1e308])
def test_odd_figures_in_the_lines_of_a_run_give_no_error(batching, wall):
    run, profile = recipe(), Profile.model_validate(BASE)
    lines, decisions = lines_of(run, profile)
    lines = [line | {"batching": batching} for line in lines]
    if wall:
        lines[0]["wall_seconds"], lines[2]["wall_seconds"] = -wall, wall
    observed = observe(run, lines, decisions=decisions, batch=None, cores=CORES, gpu=False)
    assert (observed is None) == (wall is not None) and advise(run, observed).text.endswith(".")


SHARES = st.floats(0, 1) | st.floats(0, 1e9) | st.just(1e-17)


@settings(max_examples=15, deadline=None)
@given(
    shares=st.lists(SHARES, min_size=5, max_size=5),
    wall=st.floats(1e-9, 1e12),
    length=st.integers(1, 60) | st.just(10**7),
    episodes=st.integers(1, 10**6),
    decisions=st.lists(st.integers(1, 1000) | st.just(1), max_size=5),
    batch=st.none() | st.floats(1e-3, 1e6),
    cores=st.none() | st.floats(1, 512),
    gpu=st.booleans(),
)
def test_any_figures_are_answered_in_words(shares, wall, length, episodes, decisions, batch, cores, gpu):
    names = (("shard 0", "simulate", "decision"), ("generator 0", "infer", "requests"), ("trainer", "train", "trajectories"))
    workers = [{"name": name, "busy": {busy: share}, "idle": {idle: shares[4]}} for (name, busy, idle), share in zip(names, shares, strict=False)]
    workers[0]["busy"] = {"simulate": shares[0], "overhead": shares[3]}
    run = make_recipe({"policy": {"chunk": 5}, "training": {"batch": 4}})
    lines = [
        {
            "update": number,
            "wall_seconds": number * wall,
            "environment_steps": number * length * episodes,
            "tickets": {"trained": number * episodes},
            "workers": workers,
        }
        for number in (1, 2, 3)
    ]
    observed = observe(run, lines, decisions=decisions, batch=batch, cores=cores, gpu=gpu)
    assert advise(run, observed).text.endswith(".")
