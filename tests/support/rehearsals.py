"""Small profiles and recipes for the virtual runtime and for planning."""

from __future__ import annotations

from typing import Any

from rlvla3.config import Recipe, make_recipe
from rlvla3.runtimes.virtual.costs import Profile


def small_profile(**changes) -> Profile:
    """Episodes of 3 to 12 steps, chunks of 4, and stages of comparable length, some calls several times as long as others."""
    profile = {
        "name": "small",
        "source": "made up",
        "chunk": 4,
        "episode_steps": [3, 4, 7, 12],
        "reset": {"on": "cores", "seconds": [0.3]},
        "simulate": {"on": "cores", "seconds": [0.2], "waits": 0.05, "spread": [0.5, 0.7, 0.8, 2.0]},
        "infer": {"on": "compute", "sizes": [0, 8], "seconds": [0.1, 0.3], "spread": [0.9, 1.1]},
        "train": {"on": "compute", "sizes": [0, 8], "seconds": [0.1, 0.5]},
        "load": {"on": "compute", "seconds": [0.05]},
        "weights": 1e9,
        "host": {"cores": [1, 2, 3], "straggle": 0.1},
    }
    return Profile.model_validate(profile | changes)


def small_recipe(**sections) -> Recipe:
    recipe = {
        "simulator": {"name": "virtual:Simulator", "shards": 5, "slots": 2, "timeout_s": 5.0},
        "policy": {"chunk": 4},
        "training": {"updates": 5, "batch": 8, "steps": 2, "epochs": 2, "micro_batch": 3},
    }
    for name, settings_of in sections.items():
        recipe[name] = recipe.get(name, {}) | settings_of
    return make_recipe(recipe)


PLANNED: dict[str, Any] = {
    "name": "small",
    "source": "made up",
    "chunk": 4,
    "episode_steps": [8, 12, 16, 24],
    "reset": {"on": "cores", "seconds": [0.2]},
    "simulate": {"on": "cores", "seconds": [0.3], "spread": [0.7, 0.9, 1.0, 1.4]},
    "infer": {"on": "compute", "sizes": [0, 16], "seconds": [0.1, 0.3]},
    "train": {"on": "compute", "sizes": [0, 8], "seconds": [0.05, 0.4]},
    "step": {"on": "compute", "seconds": [0.1]},
    "load": {"on": "compute", "seconds": [0.05]},
    "weights": 1e9,
    "host": {"cores": [1, 2, 3, 4, 5, 6, 7, 8], "straggle": 0.1},
}


def planned_profile(**changes: Any) -> Profile:
    return Profile.model_validate(PLANNED | changes)
