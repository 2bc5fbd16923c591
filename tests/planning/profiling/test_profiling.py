"""Profiles: work told from waiting, figures from samples, what they are to the virtual runtime, and one from end to end with real processes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil
import pytest
import yaml

from rlvla3.cli import main
from rlvla3.config import Mode, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.meter import STAGES
from rlvla3.observability.sampling import SAMPLE, Samples, SamplingBoard, seconds_asleep, seconds_per_sample
from rlvla3.planning.bound import seconds_of
from rlvla3.planning.profiling import profiler
from rlvla3.planning.profiling.cost_fitting import QUANTILES, by_size, core_throughputs, cost_of, fit_cost, powers_of_two_up_to, relative_durations, spread_of
from rlvla3.planning.profiling.measuring import in_mode, settled
from rlvla3.planning.profiling.profile_file import lines, write_profile
from rlvla3.planning.rehearsal import rehearse
from rlvla3.runtimes.virtual.costs import NOTHING, Cost, Profile, load_profile
from rlvla3.scheduling.placement import Cluster

COUNTDOWN: dict[str, Any] = {
    "simulator": {"name": "tests.support.troublesome:Countdown", "shards": 3, "max_steps": 6, "options": {"kwargs": {"step_s": 0.004}}},
    "policy": {"name": "actor_critic", "chunk": 2, "options": {"hidden": 8}},
    "training": {"updates": 4, "batch": 8, "steps": 2, "epochs": 2, "micro_batch": 8, "critic": {"epochs": 1}},
}


def samples_of(stage: str, entries: Sequence[tuple[int, float, float, float]]) -> np.ndarray:
    """Stays in a stage one after the other: size, wall, work, delay."""
    ends = np.cumsum([wall for _, wall, _, _ in entries])
    return np.array([(STAGES.index(stage), size, end, *seconds) for (size, *seconds), end in zip(entries, ends, strict=True)], SAMPLE)


# Work and waiting


def test_spinning_is_work_and_sleeping_is_not(tmp_path: Path):
    meter = SamplingBoard(["shard 3"], folder=tmp_path).meter("shard 3")
    with meter("simulate", 4):
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
    with meter("decision"):
        time.sleep(0.2)
    del meter  # what it has noted is written
    seen = Samples.read(tmp_path)
    spun, idle = seen.of("shard", "simulate"), seen.of("shard", "decision")
    assert spun["size"].tolist() == [4] and idle["size"].tolist() == [0]
    assert spun["work"] >= 0.1 > 5 * idle["work"]
    assert seconds_asleep(idle) > 0.15 > 3 * seconds_asleep(spun)  # waiting for a core that others have is neither


def test_samples_are_told_apart_by_worker_stage_and_time(tmp_path: Path):
    board = SamplingBoard(["shard 0", "shard 1", "trainer"], folder=tmp_path)
    for worker in board.workers:
        with board.meter(worker)("train", 7):
            pass
    seen = Samples.read(tmp_path)
    assert len(seen.of("shard", "train")) == 2 and len(seen.of("trainer", "train")) == 1
    end = float(seen.of("trainer", "train")["end"][0])
    assert len(seen.during(0, end).of("trainer", "train")) == 1 and not len(seen.during(end, end + 1).of("trainer", "train"))
    assert len((seen + seen).of("shard", "train")) == 4


def test_what_noting_takes_is_taken_off(tmp_path: Path):
    assert 0 < seconds_per_sample(tmp_path) < 1e-3
    left = Samples({"shard": samples_of("reset", [(1, 3.0, 2.0, 0.5), (1, 0.25, 0.25, 0.0)])}).without_overhead(0.5).kinds["shard"]
    assert left["wall"].tolist() == [2.5, 0.0] and left["work"].tolist() == [1.5, 0.0] and left["delay"].tolist() == [0.5, 0.0]


# Figures


def test_a_cost_is_work_by_size_and_waiting_apart():
    calls = samples_of("infer", [(1, 5.0, 2.0, 1.0)] * 4 + [(8, 12.0, 9.0, 1.0)] * 4)
    cost = cost_of(calls, "cores", around=0.5)
    assert cost == Cost(on="cores", sizes=[1, 8], seconds=[2.5, 9.5], waits=2.0)
    assert cost_of(calls, "compute") == Cost(on="compute", sizes=[1, 8], seconds=[4.0, 11.0])  # a device works while the process sleeps
    assert cost_of(calls[:0], "cores") == NOTHING


def test_sizes_that_are_alike_are_one_and_rare_ones_are_left_out():
    sizes = np.array([1] * 3 + [100] * 3 + [104] * 3 + [50])
    assert by_size(sizes, 2.0 * sizes) == ([1.0, 102.0], [2.0, 204.0])
    assert by_size(np.array([5, 6]), np.array([1.0, 2.0])) == ([5.5], [1.5])  # where all are rare, all count


def test_calls_differ_by_what_they_work_and_sleep_not_by_waiting_for_a_core():
    samples = np.zeros(4, SAMPLE)
    samples["size"] = [2, 2, 2, 5]
    samples["work"], samples["delay"] = [1.0, 1.0, 2.0, 9.0], [0.0, 7.0, 0.0, 0.0]
    samples["wall"] = [2.0, 9.0, 4.0, 9.0]  # so 1, 1 and 2 seconds are slept
    assert relative_durations(samples).tolist() == [0.75, 0.75, 1.5]


def test_a_spread_keeps_mean_and_tail():
    seconds = np.sort(np.random.default_rng(0).lognormal(0, 1, 20_000))
    spread = spread_of(seconds)
    cost = Cost(on="cores", seconds=[seconds.mean()], spread=spread)
    assert len(spread) == QUANTILES + 1 and seconds_of(cost, 1) == pytest.approx(seconds.mean(), rel=1e-4)
    assert (spread[-1] + spread[-2]) / 2 * seconds.mean() == pytest.approx(seconds[-200:].mean(), rel=0.05)
    assert spread_of(seconds[:50]) == []  # too few to tell


def test_the_end_of_an_update_costs_what_it_does_when_its_memory_is_full():
    fits = samples_of("fit_critic", [(0, 1.0, 99.0, 0.0), (0, 1.0, 20.0, 0.0), (0, 1.0, 30.0, 0.0), (0, 1.0, 30.0, 0.0)])
    cost = fit_cost(fits, [10, 10, 10, 10], kept=3, on="cores")  # a second for each decision that is gone over; the first update is no example
    assert cost.work(10) == 30.0


def test_cores_do_what_full_load_leaves_of_them():
    assert list(powers_of_two_up_to(1)) == [1] and list(powers_of_two_up_to(6)) == [1, 2, 4, 6]
    assert core_throughputs([(1, 2.0), (2, 3.2), (4, 4.0)]) == [1.0, 1.25, 1.625, 2.0]
    assert core_throughputs([(1, 2.0), (2, 1.9)]) == [1.0, 2.0]  # noise: two cores do no more than two
    assert core_throughputs([(1, 1.0), (2, 2.5)]) == [1.0, 1.0]  # and no less than one


def test_lengths_keep_their_distribution():
    assert profiler.lengths([7] * 500) == [7]
    kept = profiler.lengths(list(range(1, 1001)))
    assert len(kept) == profiler.MAX_LENGTHS and kept[0] == 1 and kept[-1] == 1000 and np.mean(kept) == pytest.approx(500.5, rel=0.01)


# What they are to the virtual runtime


def step_time(**costs: Any) -> float:
    """Of updates of one episode of 4 decisions, one after the other: a second to simulate, a second to infer each, and one to train."""
    second = {"on": "nothing", "sizes": [0, 1], "seconds": [1, 1]}
    tree = {"name": "slow", "source": "made up", "chunk": 2, "episode_steps": [8], "simulate": second, "infer": second, "train": second} | costs
    recipe = make_recipe({"simulator": {"shards": 1}, "policy": {"chunk": 2}, "training": {"batch": 1, "steps": 1, "epochs": 1}, "engine": {"mode": "sync"}})
    return rehearse(recipe, Profile.model_validate(tree), Cluster(1, 1)).step_time


def test_a_turn_a_hand_in_and_a_cut_episode_take_their_time():
    half = {"on": "cores", "sizes": [0, 1], "seconds": [0.5, 0.5]}
    assert step_time() == pytest.approx(9)
    assert step_time(turn=half) == pytest.approx(11)
    assert step_time(hand_in=half) == pytest.approx(9.5)
    assert step_time(truncated=1.0) == pytest.approx(10)  # the value of its last observation
    assert step_time(truncated=1.0, turn=half) == pytest.approx(12.5)


def test_a_written_profile_is_the_one_that_was_written(tmp_path: Path):
    profile = Profile(
        name="small",
        source="made up: with a colon, and on",
        chunk=2,
        episode_steps=[3, 4],
        simulate=Cost(on="cores", seconds=[0.1], waits=0.25, spread=[0.5, 1.0, 1.5]),
        infer=Cost(on="compute", sizes=[1, 8], seconds=[0.1, 0.2]),
        train=Cost(on="cores", seconds=[0.1]),
    )
    write_profile(profile, tmp_path / "new" / "small.yaml")
    assert load_profile(tmp_path / "new" / "small.yaml") == profile
    assert len((tmp_path / "new" / "small.yaml").read_text().splitlines()) < 30
    assert list(lines(profile)) == [
        "simulate  1: 100 ms on the cores; and waits 250 ms; 0.5 to 1.5 times that",
        "infer     1: 100 ms, 8: 200 ms on the compute",
        "train     1: 100 ms on the cores",
    ]


# From end to end


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recipe, its profile beside it."""
    folder = tmp_path_factory.mktemp("profile")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(COUNTDOWN))
    assert main(["profile", str(folder / "recipe.yaml"), "--out", str(folder / "found.yaml"), "--seconds", "1"]) == 0
    return folder


@pytest.mark.slow
def test_a_profile_says_what_was_measured_and_leaves_nothing_behind(measured: Path):
    profile = load_profile(measured / "found.yaml")
    assert profile.chunk == 2 and profile.episode_steps == [6] and profile.truncated == 0
    assert profile.simulate.waits >= 0.008 > profile.simulate.work(1)  # two steps that sleep; the rest is work
    assert profile.infer.sizes[0] == 1 and profile.infer.sizes[-1] > 2 and profile.infer.work(1) > 0
    assert len(profile.train.sizes) > 1 and profile.step.work(1) > 0 and profile.fit.work(1) > 0 and profile.hand_in.work(1) > 0
    assert profile.weights > 0 and profile.transfer > 0 and profile.host.cores[0] == 1
    assert "tests.support.troublesome:Countdown" in profile.source and "untrained weights" in profile.source and "torch" in profile.source
    assert sorted(path.name for path in measured.iterdir()) == ["found.yaml", "recipe.yaml"]
    assert not [child for child in psutil.Process().children(recursive=True) if child.name().startswith(("shard", "generator", "trainer", "load"))]


@pytest.mark.slow
def test_the_four_modes_are_measured_and_rehearsed(measured: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    words = ["bench", "reality", str(measured / "recipe.yaml"), "--profile", str(measured / "found.yaml")]
    assert main([*words, "--json", str(tmp_path / "reality.json"), "--updates", "2"]) == 0
    modes = json.loads((tmp_path / "reality.json").read_text())["modes"]
    assert list(modes) == list(get_args(Mode)) == [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    for figures in modes.values():
        assert figures["error"] == pytest.approx(figures["rehearsed"] / figures["measured"] - 1) and figures["measured"] > 0
    assert load_profile(tmp_path / "reality.profile.yaml") == load_profile(measured / "found.yaml")


def test_both_sides_have_the_recipe_and_nothing_but_the_preset_of_the_mode():
    recipe = make_recipe(COUNTDOWN | {"clone": {"steps": 3}, "engine": {"mode": "full_async", "max_staleness": 7, "threads": 2}})
    run = in_mode(settled(recipe), "rollout_async")
    assert run.engine == make_recipe({"engine": {"mode": "rollout_async", "threads": 2, "record": False, "share": "processes"}}).engine
    assert run.clone is None and run.simulator == recipe.simulator and run.policy == recipe.policy
    assert run.training.batch == 8 and run.training.critic.epochs == 1


# What is refused


def test_a_system_that_does_not_count_waiting_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(profiler, "SCHEDSTAT", tmp_path / "schedstat")
    with pytest.raises(RecipeError, match="measured on Linux"):
        profiler.profile_of(make_recipe(COUNTDOWN), "small", 1.0, print)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["profile", "recipe.yaml", "placement.kind=disaggregated"], "placement"),
        (["bench", "reality", "recipe.yaml", "engine.generators=2", "--json", "f.json"], "set engine.generators=1"),
        (["bench", "reality", "recipe.yaml", "--profile", "none.yaml", "--json", "f.json"], "no profile at none.yaml"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(
    words: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump(COUNTDOWN))
    assert main(words) == 2
    refused = capsys.readouterr().err
    assert complaint in refused and len(refused.splitlines()) == 1
