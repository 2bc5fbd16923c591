"""Settings that win over a recipe's, as a mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlvla3.config import Overrides, Recipe, make_recipe
from rlvla3.errors import RecipeError

CARTPOLE: dict[str, Any] = {
    "simulator": {"name": "gymnasium:CartPole-v1", "options": {"success_return": 475}},
    "policy": {"name": "actor_critic", "chunk": 1},
    "training": {"batch": 8, "steps": 2},
}


def changed(overrides: Overrides) -> Recipe:
    return make_recipe(CARTPOLE, overrides)


def test_a_mapping_says_what_the_command_line_says() -> None:
    words = ["training.updates=20", "engine.mode=sync", "policy.checkpoint=a/b", "simulator.tasks=[a, b]", "clone.demonstrations=3"]
    mapping = {"training.updates": 20, "engine.mode": "sync", "policy.checkpoint": Path("a/b"), "simulator.tasks": ("a", "b"), "clone": {"demonstrations": 3}}
    assert changed(mapping) == changed(words)


def test_a_section_keeps_what_a_mapping_does_not_name() -> None:
    recipe = changed({"training": {"updates": 20}, "simulator": {"options": {"instruction": "balance"}}})
    assert (recipe.training.updates, recipe.training.batch) == (20, 8)
    assert recipe.simulator.options == {"success_return": 475, "instruction": "balance"}


def test_an_empty_mapping_gives_a_section_its_defaults() -> None:
    assert changed({"simulator.options": {}}).simulator.options == {}


def test_tasks_with_weights_replace_a_list_of_tasks() -> None:
    tree = CARTPOLE | {"simulator": CARTPOLE["simulator"] | {"tasks": ["a", "b"]}}
    for overrides in ({"simulator.tasks": {"c": 2, "d": 1}}, {"simulator": {"tasks": {"c": 2, "d": 1}}}):
        simulator = make_recipe(tree, overrides).simulator
        assert (simulator.tasks, simulator.task_weights) == (["c", "d"], [2, 1])


def test_a_mode_is_a_preset_wherever_it_stands_in_a_mapping() -> None:
    """The resolved recipe of a run repeats the preset of its mode; another mode replaces it, and what the mapping says beside that stays."""
    resolved = changed(()).model_dump(mode="json")
    assert make_recipe(resolved, {"engine": {"mode": "sync"}}).engine == changed(["engine.mode=sync"]).engine
    assert make_recipe(resolved, {"engine": {"max_wait_ms": 1.5, "mode": "sync"}}).engine == changed(["engine.mode=sync", "engine.max_wait_ms=1.5"]).engine


def test_numbers_of_numpy_become_numbers_of_yaml() -> None:
    recipe = changed({"training.updates": np.int64(3), "simulator.options.kwargs": {"bounds": np.array([1.5, 2.0]), "scale": np.float32(0.5)}})
    assert type(recipe.training.updates) is int
    assert recipe.simulator.options["kwargs"] == {"bounds": [1.5, 2.0], "scale": 0.5}


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"training": {"bach": 1}}, "training.bach: unknown key, did you mean batch?"),
        ({"training": 3}, "training: is a section, given 3"),
        ({"simulator.options.kwargs.kind": Recipe}, "simulator.options.kwargs.kind is a .*name a class or function of your own by its module"),
        ({"training.batch.size": 3}, "training.batch.size cannot be set: batch is 8, not a section"),
        ("training.updates=3", r"put it into a list, for example \['training.updates=3'\]"),
        ({3: 4}, "3: unknown key"),
        (["=3"], "'=3' is not a setting: a name is missing before the ="),
        (["training..updates=3"], "a name is missing before the ="),
        (["clone.files=*.hdf5"], "a value that begins with [*] is put into quotes"),
    ],
)
def test_what_is_no_setting_is_refused(overrides: Overrides, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        changed(overrides)
