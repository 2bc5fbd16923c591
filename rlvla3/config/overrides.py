"""Settings that win over a recipe's: as the command line writes them, key=value, or as a mapping in Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel

from rlvla3.config.recipe import Recipe
from rlvla3.errors import RecipeError

Overrides = Sequence[str] | Mapping[str, Any]
"""["training.updates=10", ...], where values are YAML; or a mapping such as {"training.updates": 10, "engine": {"mode": "sync"}}.

The keys of the mapping are paths. A value that is a mapping itself changes the settings that it names and keeps their neighbours. An empty
mapping gives a section its defaults again.
"""

MODE = ("engine", "mode")
"""The setting that others depend on: a mode is a preset for the rest of `engine`."""


def assignments(overrides: Overrides) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path of each setting, and its value in the types of YAML. Raises RecipeError.

    The order is the order of `overrides`; a mapping, which has no order for its reader, gives engine.mode first.
    """
    if isinstance(overrides, Mapping):
        found = [pair for key, value in overrides.items() for pair in _settings(tuple(str(key).split(".")), value)]
        yield from sorted(found, key=lambda pair: pair[0] != MODE)
        return
    if isinstance(overrides, str):
        raise RecipeError(f"{overrides!r} is one setting where several may stand: put it into a list, for example [{overrides!r}]")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise RecipeError(f"{override!r} is not a setting: write key=value, for example training.updates=10")
        yield tuple(key.strip().split(".")), _value_of(override, value)


def _settings(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The settings that `value` at `path` consists of: several if it is a mapping."""
    if isinstance(value, Mapping) and value and not _is_list(path):
        for key, inner in value.items():
            yield from _settings((*path, str(key)), inner)
    else:
        yield path, _plain(".".join(path), value)


def _is_list(path: tuple[str, ...]) -> bool:
    """Whether the setting at `path` is a list. Written as a mapping, as tasks with weights may be, it is replaced as a whole."""
    section: type[BaseModel] = Recipe
    for key in path:
        if key not in section.model_fields:  # a name that the user has chosen, such as that of one of `simulators`
            continue
        annotation = section.model_fields[key].annotation
        inner = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return get_origin(annotation) is list
        section = inner[0]
    return False


def _plain(key: str, value: Any) -> Any:
    """`value` as YAML would give it: a run directory keeps it, and another process reads it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {inner: _plain(f"{key}.{inner}", part) for inner, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(key, part) for part in value]
    if isinstance(value, PathLike):
        return fspath(value)
    if hasattr(value, "tolist"):  # numbers and arrays of numpy
        return _plain(key, value.tolist())
    raise RecipeError(
        f"{key} is a {type(value).__name__}, {value!r:.80}, and a recipe holds only numbers, text, lists and mappings of these: "
        f"name a class or function of your own by its module, for example my_robot:MyEnv"
    )


def _value_of(override: str, value: str) -> Any:
    try:
        return yaml.safe_load(value) if value else None
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{override!r} is not a setting: what stands after = is not YAML. A shell takes spaces, braces and brackets apart: put the whole setting "
            f"in quotes, for example 'simulator.tasks=[push, pull]', or give one key at a time, for example engine.elastic.least=1"
        ) from error
