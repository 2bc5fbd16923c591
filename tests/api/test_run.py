"""A run directory as arrays and objects."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlvla3
from rlvla3.observability.run_directory import RunDirectory

RATE = {"successes": 1, "episodes": 4, "low": 0.05, "high": 0.7, "mean_return": 0.25, "mean_steps": 10.0}


def update(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "event": "update",
        "update": number,
        "updates": 9,
        "rollouts": RATE | changes.pop("rollouts", {}),
        "learner": {"policy_loss": 0.5},
        "environment_steps": 40 * number,
        "throughput": 20.0,
        "staleness": {"0": 3, "2": 1},
        "tickets": {"issued": 5 * number, "trained": 4 * number, "rerun": 0, "set_aside": 0},
        "workers": [{"name": "trainer", "busy": {"forward": 0.25, "backward": 0.5}, "idle": {"episodes": 0.25}}],
        "wall_seconds": 2.0 * number,
        "seconds": 3.0 * number,
    } | changes


@pytest.fixture
def run(tmp_path: Path) -> rlvla3.Run:
    recipe = rlvla3.load_recipe({"simulator.name": "gymnasium:CartPole-v1", "policy": {"name": "actor_critic", "chunk": 1}})
    return rlvla3.Run(RunDirectory.create(tmp_path / "run", recipe).path)


def write(run: rlvla3.Run, *records: dict[str, Any]) -> None:
    (run.path / "metrics.jsonl").write_text("".join(json.dumps({"seconds": 1.0, **record}) + "\n" for record in records))


def test_metrics_are_arrays_over_updates(run: rlvla3.Run) -> None:
    write(run, {"event": "notice", "text": "", "seconds": 1.0}, update(1), update(2, rollouts={"successes": 3}, learner={"policy_loss": None, "entropy": 1.0}))
    metrics = run.metrics
    assert {name: array.tolist() for name, array in metrics.items() if array.dtype == np.int64} == {
        "update": [1, 2],
        "environment_steps": [40, 80],
        "episodes": [4, 4],
        "successes": [1, 3],
        "max_staleness": [2, 2],
        "tickets_issued": [5, 10],
        "tickets_trained": [4, 8],
        "tickets_rerun": [0, 0],
        "tickets_set_aside": [0, 0],
    }
    np.testing.assert_array_equal(metrics["success"], [0.25, 0.75])
    np.testing.assert_array_equal(metrics["staleness"], [0.5, 0.5])
    np.testing.assert_array_equal(metrics["wall_seconds"], [2, 4])
    np.testing.assert_array_equal(metrics["busy/trainer"], [0.75, 0.75])
    np.testing.assert_array_equal(metrics["learner/policy_loss"], [0.5, np.nan])
    np.testing.assert_array_equal(metrics["learner/entropy"], [np.nan, 1])
    assert {array.shape for array in metrics.values()} == {(2,)}


def test_of_an_update_that_was_repeated_the_last_counts(run: rlvla3.Run) -> None:
    """So it is where the trainer was lost and the run went on from an earlier checkpoint."""
    write(run, update(1), update(2), update(3), update(2, environment_steps=81), update(3))
    assert run.metrics["update"].tolist() == [1, 2, 3]
    assert run.metrics["environment_steps"].tolist() == [40, 81, 120]


def test_before_the_first_update_there_is_nothing_yet(run: rlvla3.Run) -> None:
    assert (run.metrics, run.cloning, run.evaluations, run.checkpoints, run.version) == ({}, {}, [], [], 0)
    with pytest.raises(rlvla3.RunDirectoryError, match=r"has no summary\.json yet"):
        _ = run.summary
    with pytest.raises(rlvla3.RunDirectoryError, match="holds no checkpoint yet"):
        run.policy()


def test_a_run_that_goes_on_is_read_anew(run: rlvla3.Run) -> None:
    write(run, update(1))
    assert len(run.metrics["update"]) == 1
    write(run, update(1), update(2))
    assert len(run.metrics["update"]) == 2


def test_evaluations_have_rates_intervals_and_tasks(run: rlvla3.Run) -> None:
    of_tasks = {"near": RATE | {"successes": 4, "episodes": 4}, "far": RATE | {"mean_return": None}}
    write(
        run,
        {"event": "evaluation", "when": "before", "version": 0, **RATE},
        {"event": "evaluation", "when": "after", "version": 9, **RATE, "per_task": of_tasks},
    )
    before, after = run.evaluations
    assert (before.when, before.version, before.success, before.low, before.high, before.episodes) == ("before", 0, 0.25, 0.05, 0.7, 4)
    assert str(before) == "success 25 % [5, 70] of 4 episodes"
    assert before.per_task == {}
    assert (after.per_task["near"].success, after.per_task["near"].version, after.path) == (1.0, 9, run.path)
    assert np.isnan(after.per_task["far"].mean_return)


def test_cloning_is_a_curve_of_its_own(run: rlvla3.Run) -> None:
    write(run, *({"event": "clone", "step": step, "total": 20, "loss": loss} for step, loss in ((10, 0.5), (20, None))))
    np.testing.assert_array_equal(run.cloning["step"], [10, 20])
    np.testing.assert_array_equal(run.cloning["loss"], [0.5, np.nan])


def test_a_run_is_its_path(run: rlvla3.Run) -> None:
    assert os.fspath(run) == str(run.path)
    assert rlvla3.Run(run) == run == rlvla3.Run(str(run.path))
    assert repr(run) == f"Run({str(run.path)!r})"
    assert run.recipe == rlvla3.load_recipe(run) == rlvla3.load_recipe(run.path / "config.yaml")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rlvla3.RunDirectoryError, match="is not a run directory"):
        rlvla3.Run(tmp_path)


def test_a_recipe_comes_from_a_mapping_a_file_or_another_recipe(tmp_path: Path) -> None:
    settings = {"simulator.name": "gymnasium:CartPole-v1", "policy": {"name": "actor_critic", "chunk": 1}}
    (tmp_path / "cartpole.yaml").write_text("simulator: {name: 'gymnasium:CartPole-v1'}\npolicy: {name: actor_critic, chunk: 1}\n")
    recipe = rlvla3.load_recipe(settings)
    assert rlvla3.load_recipe(tmp_path / "cartpole.yaml") == rlvla3.load_recipe(str(tmp_path / "cartpole.yaml")) == rlvla3.load_recipe(recipe) == recipe
    assert rlvla3.load_recipe(recipe, {"seed": 4}).seed == rlvla3.load_recipe(settings, ["seed=4"]).seed == 4
    assert recipe.seed == 0


def test_mistakes_are_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"simulator.name": "gymnasium:CartPole-v1", "policy": {"name": "actor_critic", "chunk": 1}}
    for call, complaint in (
        (lambda: rlvla3.train(settings, {"policy.chunk": 501}), "policy.chunk=501 is longer than an episode"),
        (lambda: rlvla3.train(settings, {"policy.name": "__main__:Mine"}), "put it into a file of its own beside the script"),
        (lambda: rlvla3.train(settings, {"simulator.name": "__main__:Mine"}), "put it into a file of its own beside the script"),
        (lambda: rlvla3.clone(settings), "the recipe says nothing of cloning"),
        (lambda: rlvla3.evaluate(settings), "the recipe names no policy to evaluate"),
        (lambda: rlvla3.record(settings), "the recipe names no policy to record"),
        (lambda: rlvla3.record(settings, episodes_of="training"), "give a run directory, and no settings"),
        (lambda: rlvla3.record(settings, episodes_of="tests"), "episodes_of='tests' is unknown"),  # type: ignore[arg-type]
        (lambda: rlvla3.record(settings, frames="mp4"), "choose among h264, av1, png"),  # type: ignore[arg-type]
        (lambda: rlvla3.record(settings, episodes=0), "record 1 or more"),
        (lambda: rlvla3.record(settings, fps=float("nan")), "fps=nan is no rate"),
        (lambda: rlvla3.train(rlvla3.load_recipe(settings).model_copy(update={"seed": -1})), "seed: Input should be greater than or equal to 0"),
    ):
        with pytest.raises(rlvla3.RecipeError, match=complaint):
            call()
    assert list(tmp_path.iterdir()) == []
