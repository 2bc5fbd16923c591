"""Simulators and their tasks in a recipe."""

from __future__ import annotations

from collections import Counter

import pytest

from rlvla3.config import load_recipe, make_recipe
from rlvla3.config.loading import write_recipe
from rlvla3.errors import RecipeError
from rlvla3.planning.profiles import check_profile, check_single_simulator, find_profile

MIX = {
    "simulators": {
        "pole": {"name": "gymnasium:CartPole-v1", "shards": 1, "weight": 2},
        "acrobot": {"name": "gymnasium:MountainCar-v0", "shards": 2, "slots": 1, "max_steps": 50},
    },
    "policy": {"name": "actor_critic", "chunk": 1},
}


def test_a_mix_is_written_and_read_back(tmp_path):
    recipe = make_recipe(MIX)
    write_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    assert load_recipe(tmp_path / "recipe.yaml", ["simulators.pole.shards=3"]).environments == 5
    assert recipe.tasks == ("pole", "acrobot")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (MIX | {"simulator": {"name": "metaworld"}}, "one simulator: or several simulators:"),
        (MIX | {"simulators": {"a": {"tasks": ["x"]}, "b": {"tasks": ["x"]}}}, "x is a task of several simulators"),
        (MIX | {"simulators": {"a": {"shard": 1}}}, "simulators.a.shard: unknown key, did you mean shards"),
        (MIX | {"simulators": {"a": {"tasks": {"x": 0}}}}, "task_weights.0"),
        (MIX | {"simulators": {"a": {"tasks": ["x", "x"]}}}, "x stands 2 times in tasks"),
        (MIX | {"simulators": {"a": {"max_steps": 3}}, "policy": {"chunk": 5}}, "longer than an episode of a, max_steps=3"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(tree, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe(tree)


@pytest.mark.parametrize("check", [check_single_simulator, lambda recipe: check_profile(find_profile("libero-pi0"), recipe)])
def test_planning_knows_one_simulator(check):
    with pytest.raises(RecipeError, match="this recipe mixes pole, acrobot"):
        check(make_recipe(MIX))


def test_tasks_are_weighed_by_a_mapping():
    recipe = make_recipe({"simulator": {"tasks": {"reach-v3": 2, "push-v3": 1}}})
    assert Counter(recipe.mix.task(group) for group in range(6)) == {"reach-v3": 4, "push-v3": 2}


def test_a_range_of_tasks_is_spelled_out():
    recipe = make_recipe({"simulator": {"tasks": ["libero_goal/8-10", "reach-v3"]}})
    assert recipe.tasks == ("libero_goal/8", "libero_goal/9", "libero_goal/10", "reach-v3")
    assert make_recipe({"simulator": {"tasks": {"libero_goal/0-1": 3}}}).simulator.task_weights == [3, 3]
