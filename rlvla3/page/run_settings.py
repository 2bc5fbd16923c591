"""The settings of a run, and which of them are no defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvla3.config import Recipe, make_recipe
from rlvla3.config.yaml_text import read_yaml
from rlvla3.errors import RecipeError

OWN = ("simulator.name", "policy.name", "clone.demonstrations", "clone.files")
"""Settings that every run chooses. They are shown among the differences, whatever they are."""


@dataclass(frozen=True)
class RunSettings:
    """values: {dotted name: value} of all settings. changed: the names of those that are no defaults. defaults: what these are otherwise.

    unread: a sentence where this version does not know the settings. Then nothing is said of defaults.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    unread: str = ""


def read_settings(path: Path) -> RunSettings:
    """The settings in config.yaml. What cannot be read is said in `unread`: no file of a run directory stops whoever looks at it."""
    try:
        tree = read_yaml(path, "recipe", "put it back")
        if not isinstance(tree, dict):
            return RunSettings(unread=f"{path} holds no settings")
        values = flat(tree)
    except RecipeError as error:
        return RunSettings(unread=str(error))
    try:
        recipe = make_recipe(tree)
        values = flat(recipe.model_dump(mode="json"))
        usual = _usual(recipe)
    except RecipeError as error:
        return RunSettings(values, unread=f"this version of rlvla3 does not know these settings: {error}")
    changed = tuple(name for name, value in values.items() if name not in usual or usual[name] != value or (name in OWN and value))
    return RunSettings(values, changed, {name: usual[name] for name in changed if name in usual})


def _usual(recipe: Recipe) -> dict[str, Any]:
    """What the settings of `recipe` are where only its mode is given. Each simulator of a mix has the defaults of one that is alone."""
    tree: dict[str, Any] = {"engine": {"mode": recipe.engine.mode}}
    if recipe.clone is not None:  # there is no cloning without one of these two
        tree["clone"] = {"demonstrations": recipe.clone.demonstrations, "files": list(recipe.clone.files)}
    usual = flat(make_recipe(tree).model_dump(mode="json"))
    mixed = {
        f"simulators.{name}.{setting.removeprefix('simulator.')}": setting
        for name in recipe.simulators
        for setting in usual
        if setting.startswith("simulator.")
    }
    return usual | {name: usual[setting] for name, setting in mixed.items()}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted name: value} of a tree. Lists are values."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        here = f"{prefix}{name}"
        found |= flat(value, f"{here}.") if isinstance(value, Mapping) and value else {here: value}
    return found


def differing(settings: Mapping[str, RunSettings]) -> dict[str, dict[str, Any]]:
    """{setting: {run: value}} of the settings in which runs differ. A run that has no such setting is not named."""
    names = dict.fromkeys(name for each in settings.values() for name in each.values)
    found = {name: {run: each.values[name] for run, each in settings.items() if name in each.values} for name in names}
    return {name: values for name, values in found.items() if len(values) < len(settings) or len({repr(value) for value in values.values()}) > 1}
