"""What words without quotes mean in a recipe that readers of YAML take for different things: nothing at all, yes and no, None, inf.

A typed setting says itself what it takes: `streaming: no` is false, and the task `no` is a task. Under `options`, where a simulator or a policy may have
settings of any kind, nobody can know, and such a word is refused.

A section with nothing in it, as `clone:` alone on a line, is a section that has its defaults.
"""

from __future__ import annotations

from typing import Any, get_origin

from rlvla3.config.plain_tree import Word
from rlvla3.config.recipe import Recipe
from rlvla3.config.schema import alternatives, is_section, type_at, type_inside
from rlvla3.errors import RecipeError

INSTEAD = {"yes": "true", "on": "true", "no": "false", "off": "false", "none": "null", "nan": ".nan"}
"""What to write in the place of a word, in small letters. The others are spellings of .inf."""


def settled(value: Any, path: tuple[str, ...] = (), source: str = "") -> Any:
    """`value` with a meaning for each Word in it. path: of an override, whose value it is. source: the file that it is from. Raises RecipeError."""
    annotation = type_at(Recipe, path)
    if path and value == "" and isinstance(value, Word) and _may_be_empty(annotation):
        name = ".".join(path)
        raise RecipeError(f"{name}= says nothing: write {name}={{}} for a section with its defaults, or {name}=null for none where there may be none")
    return _settled(value, annotation, path, source)


def _settled(value: Any, annotation: Any, path: tuple[str, ...], source: str) -> Any:
    if isinstance(value, dict):
        return {key: _settled(part, type_inside(annotation, key), (*path, key), source) for key, part in value.items()}
    if isinstance(value, list):
        return [_settled(part, type_inside(annotation, ""), path, source) for part in value]
    if not isinstance(value, Word):
        return value
    if value == "":
        return {} if _may_be_empty(annotation) else None
    if annotation is Any or value == "None":
        instead = INSTEAD.get(value.lower(), f"{'-' if value.startswith('-') else ''}.inf")
        where = f"{source}: {'.'.join(path)}" if source else ".".join(path)
        raise RecipeError(f"{where} is {value} without quotes, which is not the same for everyone: write {instead}, or '{value}' if it is text")
    return str(value)


def _may_be_empty(annotation: Any) -> bool:
    """Whether it is a section, or a mapping of sections or settings."""
    return any(get_origin(kind) is dict or is_section(kind) for kind in alternatives(annotation))
