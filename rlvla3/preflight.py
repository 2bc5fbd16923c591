"""What can be known to be wrong with a recipe before any process starts: found without torch, in well under a second."""

from __future__ import annotations

from rlvla3.config import Recipe, RecipeError
from rlvla3.policies.registry import policy_options
from rlvla3.simulators.registry import describe_simulator
from rlvla3.types import Spaces


def preflight(recipe: Recipe) -> Spaces:
    """What the recipe's simulator shows and accepts, once simulator, policy and settings are known to fit one another. Raises RecipeError."""
    spaces = describe_simulator(recipe.simulator)
    chunk = recipe.policy.chunk
    if chunk > spaces.max_steps:
        raise RecipeError(
            f"policy.chunk={chunk} is longer than an episode of {recipe.simulator.name}, {spaces.max_steps} steps: set it to {spaces.max_steps} or less"
        )
    policy_options(recipe.policy, spaces)
    return spaces
