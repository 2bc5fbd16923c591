"""What every part of the settings tree is made of. Nothing in this package imports torch.

The meaning of a setting stands once, as a string under its field, and the docstring of a section is about the section as a whole. docs/settings.md is made
from both (scripts/settings_reference.py). The strings are read from the source only then: pydantic's `use_attribute_docstrings` would parse the source at
every import, in every worker process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from rlvla3.errors import RecipeError

LARGEST = 2**31 - 1
"""The largest whole number of a setting. Products of two of them fit into 64 bits."""

LARGEST_FLOAT = 1e30
"""The largest other number of a setting. float32 holds it."""

MOST_WORKERS = 10_000
"""The most processes, or threads, or cores, that a setting may ask for."""


def _no_truth(given: Any) -> Any:
    """pydantic would take true for 1."""
    if isinstance(given, bool):
        raise ValueError("Input should be a number")
    return given


def expanded(given: Any) -> Any:
    """A path with the home folder in the place of ~ or ~user. Raises ValueError where it can be no path."""
    if not isinstance(given, (str, Path)):
        return given
    if given == "":
        raise ValueError("Input should be a path")
    path = os.path.expanduser(given)  # noqa: PTH111  # pathlib would take a/ for a
    if path.startswith("~") and str(given).startswith("~"):
        raise ValueError(f"nobody here is called {path.partition('/')[0][1:] or 'that'}: write the whole path, or ./{path} if it begins with ~")
    if "\0" in path or any(len(os.fsencode(part)) > 255 for part in path.split("/")) or len(os.fsencode(path)) > 4095:
        raise ValueError("Input should be a path: at most 255 bytes for each name in it, 4095 in all, and no character 0")
    return path


def path_of(given: str | os.PathLike[str]) -> Path:
    """The path that a user means. Raises RecipeError where it can be no path."""
    try:
        return Path(expanded(os.fspath(given)))
    except ValueError as error:
        raise RecipeError(f"{os.fspath(given)[:100]!r} is no path: {error}") from error


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]{0,3}))?", name):
        raise ValueError("Input should be auto, cpu, cuda or cuda:N")
    return name


Number = BeforeValidator(_no_truth)
Positive = Annotated[int, Field(gt=0, le=LARGEST), Number]
NonNegative = Annotated[int, Field(ge=0, le=LARGEST), Number]
Workers = Annotated[int, Field(gt=0, le=MOST_WORKERS), Number]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1), Number]
PositiveFloat = Annotated[float, Field(gt=0, le=LARGEST_FLOAT), Number]
Seconds = Annotated[float, Field(ge=0.001, le=1_000_000), Number]
NonNegativeFloat = Annotated[float, Field(ge=0, le=LARGEST_FLOAT), Number]
Limit = Annotated[float, Field(gt=0, allow_inf_nan=True), Number]
"""A positive number, or .inf: no limit."""

Share = Annotated[float, Field(ge=0, le=1), Number]
LearningRate = Annotated[float, Field(gt=0, le=10), Number]
Device = Annotated[str, AfterValidator(_device)]
ExpandedPath = Annotated[Path, BeforeValidator(expanded)]


class Section(BaseModel):
    """A part of the settings tree. It is immutable. Unknown keys are refused, and so are numbers that are not finite, but for `Limit`s."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants")


def word(given: Mapping[str, Any], key: str, default: str) -> str:
    """What `given` says at `key`, before it is checked: `default` where that is no text."""
    said = given.get(key, default)
    return said if isinstance(said, str) else default
