"""What a call of the API starts from, and the settings that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from rlvla3.commands import Start, recipe_of
from rlvla3.config import Overrides, Recipe, make_recipe, path_of

PathName = str | PathLike[str]

Source = Recipe | Mapping[str, Any] | PathName
"""A recipe, its settings as a mapping, or the path of a recipe or of a run. A Run is the path of its directory."""


def load_recipe(source: Source, overrides: Overrides = (), *, trust: bool = False) -> Recipe:
    """The settings of a run, checked.

    source: a YAML file; a run, or the path of its directory or of one of its checkpoints, for that run's recipe; another recipe; or the settings themselves,
    as a mapping such as {"simulator.name": "gymnasium:CartPole-v1", "policy": {"name": "actor_critic", "chunk": 1}}. A setting that is left out has its
    default.
    overrides: settings that win over the source's, as a mapping, {"training.updates": 20}, or as on the command line, ["training.updates=20"].

    trust: whether the recipe of somebody else's run may name code that is no part of rlvla3 (docs/security.md). Training with it would load that code.

    Raises RecipeError, which names the setting, what is allowed and what to write instead, and RunDirectoryError for such names without `trust`.
    """
    return recipe_of(start_of(source), overrides, trusted(source, trust))


def trusted(source: object, trust: bool) -> bool:
    """Whether the caller trusts the names that come with `source`: by `trust`, or because it is a Run that was opened with it."""
    return trust or getattr(source, "trusted", False) is True  # run.py imports this file


def start_of(source: Source) -> Start:
    """`source` as the commands take it. Raises RecipeError."""
    if isinstance(source, Mapping):
        return make_recipe({}, source)
    return source if isinstance(source, Recipe) else path_of(source)
