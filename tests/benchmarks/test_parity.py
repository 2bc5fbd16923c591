"""`rlvla3 bench parity`: which runs it makes, what it reads in them, and how sure it says it is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from rlvla3.benchmarks.parity.curves import Curve, over_seeds, read_curve, shares, smoothed
from rlvla3.benchmarks.parity.differences import STUDENT_T, difference, t_half_width, variance_of_mean
from rlvla3.benchmarks.parity.running import Command, run_all, train_all
from rlvla3.benchmarks.parity.trials import SYNC, ParityError, ParityMeasurement, Schedule
from rlvla3.cli import main
from rlvla3.config import Recipe, load_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.scheduling.ledger import TicketBook

CARTPOLE: dict[str, Any] = {
    "simulator": {"name": "gymnasium:CartPole-v1", "shards": 1, "max_steps": 15, "options": {"success_return": 15}},
    "policy": {"name": "actor_critic", "chunk": 1},
    "training": {"updates": 4, "batch": 4, "steps": 1, "epochs": 1},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "cartpole.yaml"
    path.write_text(yaml.safe_dump(CARTPOLE))
    return path


def bench(recipe: Path, *words: str | Path, without: str = "") -> list[str]:
    """The words of the command as a user runs it. without: a module that is not installed."""
    forbid = f"import sys; sys.modules[{without!r}] = None; from rlvla3.cli import main; sys.exit(main())"
    return [sys.executable, "-c", forbid, "bench", "parity", str(recipe), *map(str, words)]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=200)


def curve(steps: list[float], values: list[float], episodes: float = 10.0) -> Curve:
    return Curve(np.array(steps, float), np.full(len(steps), episodes), np.array(values, float), staleness=0.0)


# Which runs there are


def test_the_plan_is_one_sync_run_a_seed_and_each_schedule_with_each_correction(recipe: Path, tmp_path: Path):
    measurement = ParityMeasurement.make(recipe, ["training.updates=5"], tmp_path, seeds=[0, 3], staleness=[1, 4])
    assert [trial.name for trial in measurement.trials()] == [
        f"{kind}-seed{seed}" for seed in (0, 3) for kind in ("sync", "staleness1-none", "staleness1-decoupled", "staleness4-none", "staleness4-decoupled")
    ]
    recipes = {trial.name: load_recipe(recipe, measurement.settings(trial)) for trial in measurement.trials()}
    assert [seen(recipes[name]) for name in ("sync-seed0", "staleness1-none-seed0", "staleness4-decoupled-seed3")] == [
        ("sync", 0, "decoupled", 0),
        ("full_async", 1, "none", 0),
        ("full_async", 4, "decoupled", 3),
    ]
    assert {one.training.updates for one in recipes.values()} == {5}
    assert not any(one.evaluation.before or one.evaluation.after for one in recipes.values())


def seen(recipe: Recipe) -> tuple[str, int, str, int]:
    return recipe.engine.mode, recipe.engine.max_staleness, recipe.algorithm.correction.name, recipe.seed


def test_all_runs_of_a_seed_have_the_same_tickets_and_differ_in_schedule_and_correction_alone(recipe: Path, tmp_path: Path):
    measurement = ParityMeasurement.make(recipe, [], tmp_path, seeds=[2], staleness=[1, 8])
    recipes = [load_recipe(recipe, measurement.settings(trial)) for trial in measurement.trials()]
    books = [TicketBook(one.mix, one.seed, one.algorithm.group_size) for one in recipes]
    assert all([book.ticket(index) for index in range(50)] == [books[0].ticket(index) for index in range(50)] for book in books)
    trees = [one.model_dump(mode="json") for one in recipes]
    for tree in trees:
        del tree["engine"], tree["algorithm"]["correction"]
    assert all(tree == trees[0] for tree in trees)


def test_a_recipe_that_sets_max_staleness_still_has_a_synchronous_baseline(recipe: Path, tmp_path: Path):
    measurement = ParityMeasurement.make(recipe, ["engine.max_staleness=3"], tmp_path, seeds=[0], staleness=[2])
    assert load_recipe(recipe, measurement.settings(measurement.trial(0, SYNC))).engine.max_staleness == 0


def test_the_recipes_own_correction_keeps_its_settings(recipe: Path, tmp_path: Path):
    measurement = ParityMeasurement.make(recipe, ["algorithm.correction={name: truncated, cap: 3.0}"], tmp_path, seeds=[0], staleness=[1])
    caps = {
        name: load_recipe(recipe, measurement.settings(measurement.trial(0, schedule))).algorithm.correction.cap
        for schedule, name in measurement.schedules.items()
    }
    assert caps == {"none": None, "truncated": 3.0}


def test_every_run_starts_from_the_one_clone(tmp_path: Path):
    measurement = ParityMeasurement.make(Path("recipes/parity_metaworld.yaml"), [], tmp_path / "with: colon", seeds=[0, 1], staleness=[1])
    recipes = [load_recipe(measurement.start, measurement.settings(trial)) for trial in measurement.trials()]
    assert {one.policy.checkpoint for one in recipes} == {tmp_path / "with: colon" / "clone" / "checkpoints" / "000000" / "policy"}
    assert not any(one.begins_by_cloning for one in recipes)
    assert measurement.recipe.begins_by_cloning


@pytest.mark.parametrize("name", ["parity_cartpole", "parity_metaworld"])
def test_the_recipes_can_be_run(name: str, tmp_path: Path):
    assert len(list(ParityMeasurement.make(Path(f"recipes/{name}.yaml"), [], tmp_path, [0, 1, 2], [1, 2, 4, 8]).trials())) == 27


@pytest.mark.parametrize(("seeds", "staleness"), [([-1], [1]), ([0], [0])])
def test_a_plan_without_meaning_is_refused(recipe: Path, tmp_path: Path, seeds: list[int], staleness: list[int]):
    with pytest.raises(ParityError, match="0 is sync, always trained"):
        ParityMeasurement.make(recipe, [], tmp_path, seeds, staleness)
    with pytest.raises(RecipeError, match="did you mean batch"):
        ParityMeasurement.make(recipe, ["training.bach=8"], tmp_path, [0], [1])


# What a run's updates say


def record(steps: int, successes: int, episodes: int, mean_return: float, staleness: dict[str, int]) -> dict[str, Any]:
    rollouts = {"successes": successes, "episodes": episodes, "mean_return": mean_return}
    return {"event": "update", "environment_steps": steps, "rollouts": rollouts, "staleness": staleness}


def test_a_curve_is_read_from_update_records():
    records = [{"event": "notice", "text": ""}, record(100, 1, 4, 20.0, {"0": 4}), record(250, 3, 4, 40.0, {"0": 1, "2": 3})]
    read = read_curve(records, "success")
    assert (read.steps.tolist(), read.values.tolist(), read.episodes.tolist(), read.staleness) == ([100, 250], [0.25, 0.75], [4, 4], 0.75)
    assert read_curve(records, "return").values.tolist() == [20.0, 40.0]


def test_the_mean_over_environment_steps_is_that_of_every_single_step():
    steps, values = [30.0, 70.0, 90.0, 150.0], [0.1, 0.4, 0.9, 0.2]
    of_each_step = np.repeat(values, np.diff([0.0, *steps]).astype(int))
    for begin, end in ((0, 150), (75, 150), (40, 80), (71, 72)):
        share = shares(curve(steps, values), begin, end)
        assert share.sum() == pytest.approx(1)
        assert share @ np.array(values) == pytest.approx(of_each_step[begin:end].mean())


def test_smoothing_weighs_episodes_and_places_the_mean_in_the_middle_of_its_updates():
    uneven = Curve(np.array([100.0, 300.0, 600.0]), np.array([10.0, 30.0, 10.0]), np.array([0.0, 1.0, 0.5]), 0.0)
    positions, values = smoothed(uneven, window=2)
    assert (positions.tolist(), values.tolist()) == ([150.0, 350.0], [0.75, 0.875])
    assert [line.tolist() for line in smoothed(uneven, window=9)] == [[300.0], [0.7]]


def test_curves_of_several_seeds_are_compared_where_all_of_them_are():
    steps, values = over_seeds([curve([100, 200, 300], [0.0, 0.5, 1.0]), curve([200, 400, 600], [1.0, 1.0, 1.0])], window=1)
    assert (steps[0], steps[-1]) == (100, 250)
    assert values.shape == (2, len(steps))
    assert values[0].tolist() == pytest.approx(((steps - 50) / 200).tolist())


# How sure one can be


def test_the_quantiles_are_students():
    assert pytest.approx([stats.t.ppf(0.975, degrees) for degrees in range(1, 31)], abs=6e-4) == STUDENT_T


def test_the_interval_over_seeds_is_the_paired_t_interval():
    rng = np.random.default_rng(0)
    sync, full_async = rng.normal(0.8, 0.1, (2, 5))
    half = t_half_width((full_async - sync).tolist())
    interval = stats.ttest_rel(full_async, sync).confidence_interval(0.95)
    assert half == pytest.approx((interval.high - interval.low) / 2, rel=1e-3)
    assert t_half_width([0.1]) is None


def test_the_variance_of_a_success_rate_is_that_of_episodes_drawn_again_and_again():
    rng, rates = np.random.default_rng(0), np.linspace(0.6, 0.8, 8)
    steps = np.cumsum(np.linspace(300, 200, 8))
    drawn = [shares(curve(steps.tolist(), rates.tolist()), 500, steps[-1]) @ (rng.binomial(40, rates) / 40) for _ in range(4000)]
    claimed = variance_of_mean(curve(steps.tolist(), rates.tolist(), episodes=40.0), 500, float(steps[-1]), "success")
    assert claimed == pytest.approx(np.var(drawn), rel=0.1)
    certain = variance_of_mean(curve([100, 200], [1.0, 1.0]), 0, 200, "success")
    assert certain is not None and certain > 0


def test_the_variance_of_a_mean_return_is_not_fooled_by_a_trend():
    rng, steps = np.random.default_rng(0), np.arange(1, 41) * 100.0
    claimed = [variance_of_mean(curve(steps.tolist(), (5 * np.arange(40) + rng.normal(0, 20, 40)).tolist()), 0, 4000, "return") for _ in range(400)]
    assert np.mean([one for one in claimed if one is not None]) == pytest.approx(20**2 / 40, rel=0.1)
    assert variance_of_mean(curve([100, 1000], [1.0, 2.0]), 500, 1000, "return") is None


def test_runs_are_compared_over_the_environment_steps_that_all_of_them_cover():
    sync = [curve([100, 200, 300], [0.0, 0.4, 0.9]), curve([100, 200, 300], [0.0, 0.4, 0.9])]
    full_async = [curve([100, 200], [0.0, 0.6]), curve([100, 250], [0.1, 0.8])]
    half = difference(sync, full_async, "success", begins=0.5)
    assert (half.begin, half.end, half.episodes) == (100, 200, (20, 17))
    assert half.seeds == pytest.approx((0.2, 0.4))
    assert (half.sync, half.full_async, half.mean) == pytest.approx((0.4, 0.7, 0.3))
    assert half.over_seeds == pytest.approx(12.706 * np.std([0.2, 0.4], ddof=1) / np.sqrt(2))
    assert half.within is True
    assert difference(sync, full_async, "success", begins=0.0).seeds == pytest.approx((0.1, 0.25))


def test_a_certain_difference_is_not_within_its_interval_and_one_seed_says_nothing():
    sync, worse = curve([100, 200], [0.5, 0.9]), curve([100, 200], [0.5, 0.6])
    slightly = curve([100, 200], [0.5, 0.61])
    assert difference([sync] * 3, [worse, worse, slightly], "success", begins=0.5).within is False
    assert difference([sync], [worse], "success", begins=0.5).within is None
    assert len(STUDENT_T) == 30


# The whole command


@pytest.fixture(scope="module")
def measured(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parity") / "out"
    ran = run(bench(recipe, "--out", out, "--seeds", "0", "1", "--staleness", "1", "--jobs", "2"))
    assert ran.returncode == 0, ran.stderr
    assert "6 runs, 6 to train" in ran.stdout
    return out


@pytest.mark.slow
def test_the_command_leaves_a_table_a_picture_and_all_figures(measured: Path):
    rows = [line.split(" | ") for line in (measured / "parity.md").read_text().splitlines() if line.startswith(("| the whole", "| its last"))]
    assert [(row[0], *row[1:3]) for row in rows] == [
        (averaged, "1", correction) for averaged in ("| the whole range", "| its last half") for correction in ("none", "decoupled")
    ]
    assert (measured / "parity.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((measured / "parity.json").read_text())
    assert [len(one["seeds"]) for one in figures["comparisons"]] == [2] * 4
    assert len(figures["runs"]) == 6
    assert all(one["episodes"] == [4.0] * 4 for one in figures["runs"])
    assert all(set(one["staleness"]) == {"0"} for one in figures["runs"] if one["max_staleness"] == 0)


@pytest.mark.slow
def test_every_run_is_an_ordinary_run_directory(measured: Path):
    asynchronous = RunDirectory.open(measured / "runs" / "staleness1-none-seed1")
    assert seen(asynchronous.recipe()) == ("full_async", 1, "none", 1)
    assert seen(RunDirectory.open(measured / "runs" / "sync-seed1").recipe())[:2] == ("sync", 0)
    assert asynchronous.ended() == "finished"


@pytest.mark.slow
def test_the_command_trains_nothing_twice_and_reads_by_another_measure(measured: Path, recipe: Path):
    written = {path: path.stat().st_mtime_ns for path in measured.glob("runs/*/*") if path.is_file()}
    words = ["bench", "parity", str(recipe), "--out", str(measured), "--seeds", "0", "1", "--staleness", "1", "--measure", "return"]
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in measured.glob("runs/*/*") if path.is_file()} == written
    assert "mean return" in (measured / "parity.md").read_text()


@pytest.mark.slow
def test_runs_of_other_settings_are_not_taken_for_these(measured: Path, recipe: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "parity", str(recipe), "training.batch=8", "--out", str(measured), "--seeds", "0", "--staleness", "1"]) == 2
    assert "training.batch=4, now 8" in capsys.readouterr().err


def test_missing_matplotlib_is_refused_before_anything_is_trained(recipe: Path, tmp_path: Path):
    ran = run(bench(recipe, "--out", tmp_path / "out", without="matplotlib"))
    assert ran.returncode == 2, ran.stderr
    assert "pip install 'matplotlib" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
@pytest.mark.slow
def test_an_interrupted_measurement_keeps_a_checkpoint_and_goes_on_from_it(recipe: Path, tmp_path: Path):
    out = tmp_path / "out"
    words = bench(recipe, "training.updates=80", "--out", out, "--seeds", "0", "--staleness", "1", "--corrections", "decoupled")
    interrupted = RunDirectory(out / "runs" / "sync-seed0")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as measuring:
        deadline = time.monotonic() + 100
        while not updates_of(interrupted) and time.monotonic() < deadline:
            time.sleep(0.05)
        measuring.send_signal(signal.SIGINT)  # to the command alone, as `kill` does: it tells its run
        measuring.communicate(timeout=100)
    assert measuring.returncode == 130
    assert interrupted.ended() == "interrupted"
    done = updates_of(interrupted)
    assert 0 < len(done) < 80
    assert interrupted.latest_checkpoint() is not None
    measurement = ParityMeasurement.make(recipe, ["training.updates=80"], out, [0], [1], ["decoupled"])
    train_all(replace(measurement, schedules={}), jobs=1)  # the interrupted run alone
    assert updates_of(interrupted)[: len(done)] == done
    assert [one["update"] for one in updates_of(interrupted)] == list(range(1, 81))


def updates_of(run: RunDirectory) -> list[dict[str, Any]]:
    return [one for one in run.metric_lines() if one["event"] == "update"]


def test_a_run_that_fails_is_named_with_what_it_said(tmp_path: Path):
    with pytest.raises(ParityError, match=r"sync-seed0 ended with status 2: rlvla3: no recipe at nowhere\.yaml"):
        run_all([Command("sync-seed0", ("train", "nowhere.yaml"), tmp_path)], jobs=1)


def test_every_run_is_told_what_may_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The runs are commands of their own: each would refuse the names that the user has said may be loaded."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(CARTPOLE))
    begun: list[Command] = []
    monkeypatch.setattr("rlvla3.benchmarks.parity.running.run_all", lambda commands, jobs: begun.extend(commands))
    for trust in (True, False):
        train_all(ParityMeasurement.make(recipe, [], tmp_path / "out", [0], [1], ["none"], trust), jobs=1)
        assert begun and all(("--trust" in command.words) == trust for command in begun)
        begun.clear()


def test_a_schedule_is_four_settings_of_the_engine():
    assert Schedule(4, "none").settings == ("engine.mode=full_async", "engine.max_staleness=4", "algorithm.correction=none")
    assert SYNC.settings == ("engine.mode=sync", "engine.max_staleness=0")
