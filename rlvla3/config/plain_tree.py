"""What a recipe holds: mappings with text as keys, lists, text, numbers, truth values and null, no deeper and no larger than the limits here.

Invariant: such a tree is written as YAML and read back unchanged (yaml_text.py). Everything that becomes a recipe goes through `plain` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from rlvla3.errors import RecipeError
from rlvla3.metadata import shown

DEPTH = 32
"""Sections, mappings and lists within each other."""

VALUES = 20_000
"""Values of a recipe, aliases counted as often as they are used."""

DIGITS = 100
"""Digits of a number."""


class Word(str):
    """A word without quotes that readers of YAML take for different things."""


def plain(value: Any, key: str = "") -> Any:
    """A copy of `value` in the types of YAML. key: the path of `value` in the recipe, for messages. Raises RecipeError where the recipe cannot hold it."""
    return _Copy().of(value, key, 0)


class _Copy:
    """One copy, and how many values it has so far."""

    def __init__(self) -> None:
        self._values = 0

    def of(self, value: Any, key: str, depth: int) -> Any:
        self._values += 1
        if self._values > VALUES:
            raise RecipeError(f"there are more than {VALUES} values in {key.partition('.')[0] or 'the recipe'}: a recipe has at most {VALUES}")
        if depth > DEPTH:
            raise RecipeError(f"{key[:60]}... is more than {DEPTH} levels deep: a recipe has at most {DEPTH} levels")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (int, float, str)):
            return _text(value, key) if isinstance(value, str) else _number(value, key)
        if isinstance(value, Mapping):
            return self._mapping(value, key, depth)
        if isinstance(value, (list, tuple)):
            return [self.of(part, key, depth + 1) for part in value]
        if isinstance(value, PathLike):
            return self.of(fspath(value), key, depth)
        if hasattr(value, "tolist"):  # numbers and arrays of numpy
            if getattr(value, "size", 1) > VALUES:
                raise RecipeError(f"{key} is an array of {value.size} numbers, and a recipe has at most {VALUES} values: name a file that holds them")
            return self.of(value.tolist(), key, depth)
        raise RecipeError(
            f"{key} is a {type(value).__name__}, {shown(value)}, and a recipe holds only numbers, text, lists and mappings of these: "
            f"name a class or function of your own by its module, for example my_robot:MyEnv"
        )

    def _mapping(self, mapping: Mapping[Any, Any], key: str, depth: int) -> dict[str, Any]:
        copied: dict[str, Any] = {}
        for name, part in mapping.items():
            if not isinstance(name, (str, int, float)) and name is not None:
                raise RecipeError(f"{key or 'the recipe'} has the key {shown(name)}, and keys of a recipe are text")
            if isinstance(name, int):
                _number(name, f"a key of {key or 'the recipe'}")  # refuses a number that Python does not write
            text = _text(name, key) if isinstance(name, str) else str(name)
            if text in copied:
                raise RecipeError(f"{key or 'the recipe'} has the key {text} twice, as text and as a {type(name).__name__}: keep one of the two")
            copied[text] = self.of(part, f"{key}.{text}" if key else text, depth + 1)
        return copied


def _text(value: str, key: str) -> str:
    """Text, without the class that a caller may have given it."""
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise RecipeError(f"{key} holds half a character ({value!a:.60}), which no UTF-8 file can hold: write it without")
    return str(value)


def _number(value: float, key: str) -> float:
    if isinstance(value, int):
        if abs(int(value)) >= 10**DIGITS:
            raise RecipeError(f"{key} is a number of more than {DIGITS} digits, the most that a recipe can hold")
        return int(value)
    return float(value)
