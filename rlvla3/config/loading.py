"""Reads recipes: short YAML files that say what differs from the defaults become a settings tree.
Unknown keys are refused, and the nearest known one is named.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rlvla3.config.engine import PRESETS
from rlvla3.config.overrides import MODE, Overrides, assignments
from rlvla3.config.recipe import Recipe
from rlvla3.config.section import Section
from rlvla3.errors import RecipeError

SectionT = TypeVar("SectionT", bound=Section)


def load_recipe(path: Path, overrides: Overrides = ()) -> Recipe:
    """The recipe in `path` with `overrides` applied over it.

    Raises RecipeError where the file is missing or anything in it cannot be run.
    """
    if not path.is_file():
        raise RecipeError(f"no recipe at {path}: give the path of a YAML file, for example recipes/quickstart.yaml")
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds a {type(tree).__name__}, and a recipe is a mapping of sections such as simulator: and policy:")
    return make_recipe(tree, overrides, source=str(path))


def make_recipe(tree: Mapping[str, Any], overrides: Overrides = (), source: str = "the recipe") -> Recipe:
    """A recipe from a plain tree. Raises RecipeError."""
    merged = _deep_copy(tree)
    _read_zero_as_null(merged)  # before the overrides: another mode is compared with the preset of this one
    for path, value in assignments(overrides):
        if path == MODE:
            _forget_preset(merged.get("engine") or {})
        _assign(merged, path, value)
    _read_zero_as_null(merged)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise RecipeError(f"{source} cannot be run:\n" + "\n".join(_explain(problem) for problem in error.errors())) from error


def check_options(schema: type[SectionT], options: Mapping[str, Any], prefix: str, refusal: str = "the recipe cannot be run") -> SectionT:
    """`options` as a `schema`, refused in the same words as the rest of the recipe. prefix: where they stand, for example "simulator.options"."""
    try:
        return schema.model_validate(dict(options))
    except ValidationError as error:
        raise RecipeError(f"{refusal}:\n" + "\n".join(_explain(problem, prefix, schema) for problem in error.errors())) from error


def write_recipe(recipe: Recipe, path: Path) -> None:
    """The resolved settings, every default spelled out, as a YAML file that `load_recipe` reads back."""
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def _deep_copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _assign(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        child = tree.setdefault(key, {})
        if child is None:
            child = tree[key] = {}
        if not isinstance(child, dict):
            raise RecipeError(f"{'.'.join(path)} cannot be set: {key} is {child!r}, not a section")
        tree = child
    tree[path[-1]] = value


def _read_zero_as_null(tree: Mapping[str, Any]) -> None:
    """Some settings said 0 for "no limit" before null did. Recipes and run directories of that time are read as they were meant, and the user is told."""
    simulators = tree.get("simulators")
    names = list(simulators) if isinstance(simulators, dict) else []
    for *path, key in (["engine", "max_batch"], ["simulator", "cores"], *(["simulators", name, "cores"] for name in names)):
        section: Any = tree
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and type(section.get(key)) in (int, float) and section[key] == 0:
            section[key] = None
            _say_respelled(f"{'.'.join(path)}.{key}")


@cache
def _say_respelled(setting: str) -> None:
    """Once in a process for each setting. Without a handler of the caller's own, `logging` writes the sentence to stderr as it is."""
    logging.getLogger(__name__).warning("rlvla3: %s=0 still means no limit, but the new spelling is null: write %s=null", setting, setting)


def _forget_preset(engine: dict[str, Any]) -> None:
    """Before another mode is chosen: the settings that only repeat the present mode's preset, as a resolved recipe's do, go with it."""
    for key, preset in PRESETS.get(engine.get("mode", "full_async"), {}).items():
        if engine.get(key) == preset:
            engine.pop(key, None)


def _explain(problem: Any, prefix: str = "", schema: type[BaseModel] = Recipe) -> str:
    where = ".".join([*([prefix] if prefix else []), *(str(part) for part in problem["loc"])])
    if problem["type"] == "extra_forbidden":
        known = list(_section_at(schema, problem["loc"][:-1]).model_fields)
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"  {where}: unknown key" + (f", did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}")
    if problem["type"] == "model_type":
        known = list(_section_at(schema, problem["loc"]).model_fields)
        return f"  {where}: is a section, given {problem['input']!r}: set its keys, such as {where}.{known[0]}=...; known here: {', '.join(known)}"
    message = problem["msg"].removeprefix("Value error, ")
    given = f", given {problem['input']!r}" if where and not isinstance(problem["input"], dict) else ""
    return f"  {where + ': ' if where else ''}{message}{given}"


def _section_at(schema: type[BaseModel], path: Sequence[Any]) -> type[BaseModel]:
    for key in path:
        if key in schema.model_fields:  # else it is one of the user's own names, in a mapping of sections
            kinds = (schema.model_fields[key].annotation, *get_args(schema.model_fields[key].annotation))
            schema = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return schema
