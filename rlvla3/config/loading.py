"""Reads recipes: short YAML files that say what differs from the defaults become a settings tree.

Every input ends in a Recipe or in a RecipeError, and `write_recipe` writes what `load_recipe` reads back unchanged.
Unknown keys are refused, and the nearest known one is named.

The package for YAML is imported when a text is read or written: a simulator in an interpreter of its own needs none.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rlvla3.config.engine import PRESETS
from rlvla3.config.overrides import MODE, Overrides, assignments
from rlvla3.config.plain_tree import DEPTH, plain
from rlvla3.config.recipe import Recipe
from rlvla3.config.schema import known_keys, type_at
from rlvla3.config.section import Section, word
from rlvla3.config.words import settled
from rlvla3.errors import RecipeError
from rlvla3.metadata import shown

SectionT = TypeVar("SectionT", bound=Section)

PROBLEMS = 10
"""How many problems of a recipe are shown."""


def load_recipe(path: Path, overrides: Overrides = ()) -> Recipe:
    """The recipe in `path` with `overrides` applied over it.

    Raises RecipeError where the file is missing or anything in it cannot be run.
    """
    from rlvla3.config.yaml_text import read_yaml

    tree = read_yaml(path, "recipe", "give the path of a YAML file, for example recipes/quickstart.yaml, or of a run directory")
    if tree == "":
        if not overrides:  # a file that was cut short must not run with all defaults
            raise RecipeError(f"{path} is empty: write at least one setting, for example seed: 0, and every other setting has its default")
        tree = {}
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds a {type(tree).__name__}, and a recipe is a mapping of sections such as simulator: and policy:")
    return make_recipe(settled(tree, source=str(path)), overrides, source=str(path))


def make_recipe(tree: Mapping[str, Any], overrides: Overrides = (), source: str = "the recipe") -> Recipe:
    """A recipe from a plain tree. Raises RecipeError."""
    merged: dict[str, Any] = plain(tree)
    _read_zero_as_null(merged)  # before the overrides: another mode is compared with the preset of this one
    for path, value in assignments(overrides):
        if path == MODE:
            _forget_preset(merged.get("engine"))
        _assign(merged, path, settled(value, path))
    merged = plain(merged)  # overrides may have made it too deep or too large
    _read_zero_as_null(merged)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        raise RecipeError(_refusal(f"{source} cannot be run", error)) from error


def check_options(schema: type[SectionT], options: Mapping[str, Any], prefix: str, refusal: str = "the recipe cannot be run") -> SectionT:
    """`options` as a `schema`, refused in the same words as the rest of the recipe. prefix: where they stand, for example "simulator.options"."""
    try:
        return schema.model_validate(dict(options))
    except ValidationError as error:
        raise RecipeError(_refusal(refusal, error, prefix, schema)) from error


def recipe_text(recipe: Recipe) -> str:
    """The resolved settings, every default spelled out, as YAML."""
    from rlvla3.config.yaml_text import yaml_of

    return yaml_of(recipe.model_dump(mode="json"))


def write_recipe(recipe: Recipe, path: Path) -> None:
    """The resolved settings as a YAML file that `load_recipe` reads back."""
    path.write_text(recipe_text(recipe), encoding="utf-8")


def _assign(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    if len(path) > DEPTH:
        raise RecipeError(f"{'.'.join(path)[:60]}... has more than {DEPTH} parts: a recipe has at most {DEPTH} levels")
    for key in path[:-1]:
        child = tree.setdefault(key, {})
        if child is None:
            child = tree[key] = {}
        if not isinstance(child, dict):
            raise RecipeError(f"{'.'.join(path)} cannot be set: {key} is {shown(child)}, not a section")
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


def _forget_preset(engine: Any) -> None:
    """Before another mode is chosen: the settings that only repeat the present mode's preset, as a resolved recipe's do, go with it."""
    if not isinstance(engine, dict):
        return
    for key, preset in PRESETS.get(word(engine, "mode", "full_async"), {}).items():
        if engine.get(key) == preset:
            engine.pop(key, None)


def _refusal(what: str, error: ValidationError, prefix: str = "", schema: type[BaseModel] = Recipe) -> str:
    problems = error.errors(include_url=False)
    more = [f"  ... and {len(problems) - PROBLEMS} more"] if len(problems) > PROBLEMS else []
    return "\n".join([f"{what}:", *(_explain(problem, prefix, schema) for problem in problems[:PROBLEMS]), *more])


def _plain_message(kind: str, given: Any) -> str:
    """What a setting should be, where pydantic says it in words that only programmers know. Empty for other kinds of problems."""
    if kind in ("list_type", "tuple_type"):
        return f"Input should be a list: write [{given}]" if isinstance(given, str | int | float) else "Input should be a list"
    return "Input should be true or false" if kind in ("bool_type", "bool_parsing") else ""


def _explain(problem: Any, prefix: str, schema: type[BaseModel]) -> str:
    where = ".".join([*([prefix] if prefix else []), *(str(part) for part in problem["loc"])])
    where = where if len(where) <= 200 else f"{where[:200]}..."
    if problem["type"] == "extra_forbidden":
        known = known_keys(type_at(schema, problem["loc"][:-1]))
        close = difflib.get_close_matches(str(problem["loc"][-1])[:100], known, n=1)
        return f"  {where}: unknown key" + (f", did you mean {close[0]}?" if close else f"; known here: {', '.join(known) or 'none'}")
    if problem["type"] == "model_type":
        known = known_keys(type_at(schema, problem["loc"]))
        return f"  {where}: is a section, given {shown(problem['input'])}: set its keys, such as {where}.{known[0]}=...; known here: {', '.join(known)}"
    message = _plain_message(problem["type"], problem["input"]) or problem["msg"].removeprefix("Value error, ")
    given = f", given {shown(problem['input'])}" if where and not (isinstance(problem["input"], dict) and problem["type"] == "value_error") else ""
    return f"  {where + ': ' if where else ''}{message}{given}"
