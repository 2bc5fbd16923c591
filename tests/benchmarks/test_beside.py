"""`rlvla3 bench beside`: both sides are the same run, but for its evaluations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvla3.benchmarks.beside import default_recipe, main
from rlvla3.errors import RecipeError
from rlvla3.parts import beside_capacity


def test_half_of_the_slots_of_its_own_recipe_are_spare() -> None:
    recipe = default_recipe([])
    assert 2 * recipe.training.batch * (1 + recipe.engine.max_staleness) == recipe.environments
    assert beside_capacity(recipe) >= recipe.evaluation.episodes


def test_a_recipe_without_evaluations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.every=0, so nothing is evaluated"):
        main(["evaluation.every=0"], tmp_path / "figures.json", pairs=1, seconds=1.0)


@pytest.mark.slow
def test_both_sides_train_and_one_of_them_evaluates(tmp_path: Path, nothing_left: None) -> None:
    quick = ["simulator.shards=4", "training.batch=1", "simulator.delay.step.mean_s=0.001", "evaluation.every=3", "evaluation.episodes=2"]
    main(quick, tmp_path / "figures.json", pairs=2, seconds=0.5)
    figures = json.loads((tmp_path / "figures.json").read_text())
    for pair in figures["pairs"]:
        assert pair["with"]["evaluated"] and not pair["without"]["evaluated"]
        assert pair["ratio"] == pytest.approx(pair["with"]["steps_per_second"] / pair["without"]["steps_per_second"])
