"""What the documents show must run."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlvla3.config import SimulatorConfig, load_recipe
from rlvla3.preflight import preflight
from rlvla3.simulators.libero.assets import VARIABLE
from rlvla3.types import Ticket
from tests.support.repository import ROOT


def test_the_example_simulator_runs() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.S)
    names: dict[str, Any] = {}
    exec(source, names)
    reach = names["Reach"](SimulatorConfig(name="example:Reach"), chunk=5)
    seen = reach.reset(0, Ticket(0, "reach", seed=3, group=0))
    while True:
        at, goal = seen.state
        outcome = reach.step({0: np.full((5, 1), np.clip((goal - at) / 0.5, -1, 1), np.float32)})[0]
        if outcome.done:
            break
        seen = outcome.observation
    assert outcome.success and outcome.rewards[-1] == 1


NEEDS = {"libero": "libero", "maniskill": "mani_skill", "robosuite": "robosuite"}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_run(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 20, f"{path.name} is too long for a recipe"
    recipe = load_recipe(path)
    for simulator in recipe.mixed.values():
        if find_spec(NEEDS.get(simulator.name, "rlvla3")) is None:
            pytest.skip(f"{simulator.name} is not installed")
        if simulator.name == "libero" and not os.environ.get(VARIABLE):
            pytest.skip(f"LIBERO's assets are not on this machine: {VARIABLE} is not set")
    preflight(recipe)
