"""What a simulator's name in a recipe stands for, before it is known whether that is a Simulator or makes Gymnasium environments."""

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


def load(name: str) -> Any:
    """What BUILT_IN or `module:Class` names. Raises RecipeError."""
    path = BUILT_IN.get(name, name)
    if ":" not in path:
        raise RecipeError(f"simulator.name={name} is not known: write {', '.join(BUILT_IN)}, gymnasium:ID (gymnasium:CartPole-v1), or module:Class of your own")
    found = load_named(path, "simulator.name")
    if not callable(found):
        raise RecipeError(f"simulator.name={name} is a {type(found).__name__}: name a Simulator, or a class or function that makes a Gymnasium environment")
    return found
