"""The simulators that ship with rlvla3, and how a name is loaded.

A name stands for a Simulator class, for a gymnasium.Env class, or for a function that makes one. registry.py finds out whether it is the first, and
gymnasium.py checks the other two before it calls them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvla3.errors import RecipeError
from rlvla3.named import load_named

BUILT_IN: Mapping[str, str] = {
    "libero": "rlvla3.simulators.libero.simulator:Libero",
    "maniskill": "rlvla3.simulators.maniskill.simulator:ManiSkill",
    "metaworld": "rlvla3.simulators.metaworld.simulator:MetaWorld",
    "robocasa": "rlvla3.simulators.robosuite.simulator:RoboCasa",
    "robosuite": "rlvla3.simulators.robosuite.simulator:Robosuite",
    "slow_image": "rlvla3.simulators.slow_image:SlowImageEnv",
}


GYMNASIUM = "rlvla3.simulators.gymnasium:GymnasiumSimulator"
"""What runs every environment of Gymnasium."""


def load_simulator_or_environment(name: str) -> Any:
    """What `name` stands for: a key of BUILT_IN, or `module:Class`. Raises RecipeError if there is no such name, or if it is nothing that can be called."""
    path = BUILT_IN.get(name, name)
    if ":" not in path:
        raise RecipeError(
            f"simulator.name={name} is not known: write one of {', '.join(BUILT_IN)}, gymnasium:ID (such as gymnasium:CartPole-v1), or module:Class of your own"
        )
    found = load_named(path, "simulator.name")
    if not callable(found):
        raise RecipeError(f"simulator.name={name} is a {type(found).__name__}: name a Simulator, or a class or function that makes a Gymnasium environment")
    return found
