"""What every part of the settings tree is made of. Nothing in this package imports torch.

The meaning of a setting stands once, as a string under its field, and the docstring of a section is about the section as a whole. docs/settings.md is made
from both (scripts/settings_reference.py). The strings are read from the source only then: pydantic's `use_attribute_docstrings` would parse the source at
every import, in every worker process.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the settings tree. It is immutable, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
