"""What files of other software say about themselves: JSON that is read within limits and checked by a schema.

Invariants:
- nothing that a file says is used before a schema has accepted it (`Metadata`): its type, and the bounds of its numbers, which are finite;
- a refusal names the file and the key, what stands there, what must stand there, and what to do;
- files are as long, and mappings as deep, as the limits here. So a file cannot fill the memory or the stack.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rlvla3.errors import ExplainedError, RecipeError

LARGEST_FILE = 100_000_000
"""Bytes of a JSON file. Those that are read here have some megabytes at most."""

LONGEST_LINE = 10_000_000
"""Bytes of one line of a file with JSON in every line."""

DEEPEST = 100
"""How many lists and mappings may stand within one another."""

LONGEST_NAME, LONGEST_PATH = 255, 1000
"""Bytes of the name of a file, and of its path within a folder. Systems refuse longer ones."""

SHOWN = 80
"""Characters of a value that a message shows."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A whole number of something. Larger ones are not exact in JSON of other software."""

MetadataT = TypeVar("MetadataT", bound="Metadata")


class Metadata(BaseModel):
    """A schema. Values are not converted: a number in quotes is no number. Keys that are not known here belong to other software, and are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


def refuse_no_file(path: Path, way_out: str, error: type[ExplainedError] = RecipeError) -> None:
    """Raise `error` where something is at `path` that is no file: a folder, a device, a pipe. Whoever opens a pipe may wait for ever."""
    if path.exists() and not path.is_file():
        raise error(f"{path} is {'a folder' if path.is_dir() else 'a device or a pipe'}, and no file. {way_out}")


def read_json(path: Path, way_out: str, error: type[ExplainedError] = RecipeError) -> Any:
    """The content of a JSON file. way_out: what to do where it cannot be read, a sentence without its full stop. Raises `error`."""
    try:
        refuse_no_file(path, way_out, error)
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise error(f"{path} has more than {LARGEST_FILE} bytes: it is no file of its kind. {way_out}")
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}. {way_out}") from problem
    return parse_json(text, str(path), way_out, error)


def read_json_lines(path: Path, way_out: str, error: type[ExplainedError] = RecipeError) -> Iterator[tuple[str, Any]]:
    """The place, for messages, and the content of each line that is not empty. Raises `error`."""
    try:
        refuse_no_file(path, way_out, error)
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise error(f"{path}, line {number} has more than {LONGEST_LINE} bytes: it is no file of its kind. {way_out}")
                if line.strip():
                    place = f"{path}, line {number}"
                    yield place, parse_json(line, place, way_out, error)
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}. {way_out}") from problem


def parse_json(text: bytes | str, place: str, way_out: str, error: type[ExplainedError] = RecipeError) -> Any:
    """The content of `text`. place: where it stands, for messages. Raises `error` where it is not JSON, or is nested too deep."""
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        content = json.loads(text)
        too_deep = _depth(content) > DEEPEST
        if "\\ud" in text.lower() and not too_deep:
            json.dumps(content, ensure_ascii=False).encode()  # raises where it holds half of a character, which nothing can write again
    except RecursionError:
        too_deep = True
    except ValueError as problem:  # not JSON, not UTF-8, or a number of thousands of digits
        raise error(f"{place} is not JSON: {shortened(str(problem))}. It may be half-written. {way_out}") from problem
    if too_deep:
        raise error(f"{place} has more than {DEEPEST} lists and mappings within one another: it is no file of its kind. {way_out}")
    return content


def checked(schema: type[MetadataT], content: Any, place: str, way_out: str, error: type[ExplainedError] = RecipeError) -> MetadataT:
    """`content` as a `schema`. place: where it stands, such as a file. way_out: what to do where it is not accepted. Raises `error`, naming place and key."""
    if not isinstance(content, Mapping):
        raise error(f"{place} holds {shown(content)}, and must hold a mapping. {way_out}")
    try:
        return schema.model_validate(dict(content))
    except ValidationError as problem:
        raise error(f"{place}: {'. '.join(explained(problem))}. {way_out}") from problem


def shown(value: Any, letters: int = SHOWN) -> str:
    """A value for messages, cut to a few words."""
    try:
        return shortened(repr(value), letters)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"


def explained(problem: ValidationError, most: int = 3) -> list[str]:
    """What is wrong, key by key, in at most `most` clauses."""
    wanted: dict[str, list[str]] = {}  # what a key is -> what it may be, once for each kind that is allowed there
    for one in problem.errors(include_url=False):
        # pydantic puts the name of the kind behind the key.
        key = ".".join(str(part) for part in one["loc"] if not re.fullmatch(r"(str|int|float|bool|list\[.*\]|dict\[.*\]|function-.*)", str(part)))
        said = f"{shortened(key)} is missing" if one["type"] == "missing" else f"{shortened(key)} is {shown(one['input'])}"
        wanted.setdefault(said, []).extend(_wanted(one))
    clauses = [f"{said}{', and ' * bool(kinds)}{' or '.join(dict.fromkeys(kinds))}" for said, kinds in wanted.items()]
    return [*clauses[:most], *([f"{len(clauses) - most} more keys are wrong"] if len(clauses) > most else [])]


EXPECTED: Mapping[str, str] = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "{expected}",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} at most",
    "none_required": "null",
}
"""pydantic's kind of a problem -> what must stand there."""


def _wanted(problem: Any) -> list[str]:
    if problem["type"] == "missing":
        return []
    if problem["type"] == "value_error":
        return [str(problem["ctx"]["error"])]
    expected = EXPECTED.get(problem["type"])
    return [f"must be {expected.format(**problem.get('ctx', {}))}" if expected else problem["msg"]]


def shortened(text: str, letters: int = SHOWN) -> str:
    """A text for messages, in one line, cut to a few words."""
    flat = " ".join(text.split())
    return flat if len(flat) <= letters else f"{flat[:letters]}..."


def _depth(content: Any) -> int:
    """How many lists and mappings stand within one another. It uses no stack."""
    depth, level = 0, [content]
    while level := [part for part in level if isinstance(part, dict | list)]:
        depth += 1
        level = [part for outer in level for part in (outer.values() if isinstance(outer, dict) else outer)]
    return depth


def path_template(*names: str) -> AfterValidator:
    """A check of a text that becomes a path within a folder when numbers and names are put in the place of {names}. Any other hole is refused."""

    def check(template: str) -> str:
        try:
            parts = list(Formatter().parse(template))
        except ValueError as problem:
            raise ValueError(f"it is no template of a path ({problem})") from problem
        for _, hole, how, conversion in parts:
            if hole is not None and (hole not in names or conversion or not re.fullmatch(r"(0?\d?d)?", how or "")):
                raise ValueError(f"it has a hole that cannot be filled: {{{shortened(hole)}}}. Holes are {', '.join(f'{{{name}}}' for name in names)}")
        check_within("".join(literal for literal, *_ in parts))
        return template

    return AfterValidator(check)


def check_within(text: str) -> str:
    """Raise ValueError where a path of a file leads out of its folder, or is none."""
    path = Path(text)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in text:
        raise ValueError("it must be a path within the folder")
    if max(len(os.fsencode(part)) for part in path.parts) > LONGEST_NAME or len(os.fsencode(text)) > LONGEST_PATH:
        raise ValueError(f"a path has at most {LONGEST_PATH} bytes, and each of its names {LONGEST_NAME}")
    return text


PathWithin = Annotated[str, AfterValidator(check_within)]
"""The path of a file within its folder."""
