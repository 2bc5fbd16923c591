"""Settings that win over a recipe's: as the command line writes them, key=value, or as a mapping in Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_origin

from rlvla3.config.plain_tree import plain
from rlvla3.config.recipe import Recipe
from rlvla3.config.schema import type_at
from rlvla3.errors import RecipeError
from rlvla3.metadata import shown

Overrides = Sequence[str] | Mapping[str, Any]
"""["training.updates=10", ...], where values are YAML; or a mapping such as {"training.updates": 10, "engine": {"mode": "sync"}}.

The keys of the mapping are paths. A value that is a mapping itself changes the settings that it names and keeps their neighbours. An empty
mapping gives a section its defaults again.
"""

MODE = ("engine", "mode")
"""The setting that others depend on: a mode is a preset for the rest of `engine`."""


def assignments(overrides: Overrides) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path of each setting, and its value as YAML gives it. Raises RecipeError.

    The order is the order of `overrides`, and the last one of a setting wins; a mapping, which has no order for its reader, gives engine.mode first.
    """
    if isinstance(overrides, Mapping):
        found = [pair for key, value in plain(overrides).items() for pair in _settings(tuple(key.split(".")), value)]
        _refuse_repeated([path for path, _ in found])
        yield from sorted(found, key=lambda pair: pair[0] != MODE)
        return
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise RecipeError(f"{shown(overrides)} is one setting where several may stand: put it into a list, for example [{shown(overrides)}]")
    for override in overrides:
        if not isinstance(override, str):
            raise RecipeError(f"{shown(override)} is not a setting: a list of settings holds text, for example training.updates=10; or give a mapping")
        key, equals, value = override.partition("=")
        if not equals:
            raise RecipeError(f"{shown(override)} is not a setting: write key=value, for example training.updates=10")
        path = tuple(key.strip().split("."))
        if not all(path):
            raise RecipeError(f"{shown(override)} is not a setting: a name is missing before the =. Write key=value, for example training.updates=10")
        yield path, _value_of(override, value)


def set_by(overrides: Overrides) -> set[tuple[str, ...]]:
    """The paths of all settings that `overrides` give a value: those within a section that is given as a whole, too. Raises RecipeError."""

    def within(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, ...]]:
        yield path
        for key, inner in value.items() if isinstance(value, dict) else ():
            yield from within((*path, str(key)), inner)

    return {inner for path, value in assignments(overrides) for inner in within(path, value)}


def _refuse_repeated(paths: Sequence[tuple[str, ...]]) -> None:
    """A mapping may name a setting in two ways: {"training.updates": 1, "training": {"updates": 2}}."""
    if repeated := [path for number, path in enumerate(paths) if path in paths[:number]]:
        raise RecipeError(f"{'.'.join(repeated[0])} is set twice in one mapping: keep one of the two")


def _settings(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The settings that `value` at `path` consists of: several if it is a mapping."""
    if isinstance(value, dict) and value and get_origin(type_at(Recipe, path)) is not list:  # tasks with weights are replaced as a whole
        for key, inner in value.items():
            yield from _settings((*path, key), inner)
    else:
        yield path, value


def _value_of(override: str, value: str) -> Any:
    from rlvla3.config.yaml_text import YamlProblem, parse_yaml

    try:
        return parse_yaml(value)
    except YamlProblem as problem:
        if value.strip().startswith(("*", "@", "`", "%")):
            raise RecipeError(
                f"{shown(override)} is not a setting: a value that begins with {value.strip()[0]} is put into quotes, and these into quotes for the shell, "
                f"for example 'clone.files=\"*.hdf5\"'"
            ) from problem
        raise RecipeError(
            f"{shown(override)} is not a setting: {problem.words}. A shell takes spaces, braces and brackets apart: put the whole setting "
            f"in quotes, for example 'simulator.tasks=[push, pull]', or give one key at a time, for example engine.elastic.least=1"
        ) from problem
