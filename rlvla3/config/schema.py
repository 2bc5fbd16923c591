"""What may stand at a place of the settings tree: the types behind a path such as ("simulators", "left", "options")."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel


def type_at(annotation: Any, path: Sequence[Any]) -> Any:
    """The type of what stands at `path` in something of a type: Any if it may be anything, None if it is not known."""
    for key in path:
        annotation = type_inside(annotation, key)
    return annotation


def type_inside(annotation: Any, key: Any) -> Any:
    """`type_at` for one key. Behind a name that the user has chosen, as under `simulators`, stands what stands behind each of them."""
    for kind in alternatives(annotation):
        if kind is Any:
            return Any
        if is_section(kind):
            return kind.model_fields[key].annotation if key in kind.model_fields else None
        if get_origin(kind) in (dict, list, tuple):
            return get_args(kind)[-1]
    return None


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """What a type may be: several where it is a union."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def is_section(kind: Any) -> bool:
    """Whether a type that is no union is a section."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def known_keys(annotation: Any) -> list[str]:
    """The keys of the section that a type is, or may be."""
    return [name for kind in alternatives(annotation) if is_section(kind) for name in kind.model_fields]
