"""From `module:Class`, as a recipe names what is not in the package, to the object itself."""

from __future__ import annotations

import importlib
from typing import Any

from rlvla3.errors import RecipeError


def load_named(name: str, key: str) -> Any:
    """What `name`, "module:attribute", names. key: the setting it stands in, for the error. Raises RecipeError where it cannot be had."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{key}={name} cannot be loaded: {error}. Is {module} installed, or in the folder the command runs in?") from error
