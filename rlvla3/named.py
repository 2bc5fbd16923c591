"""Imports what a recipe names as `module:Class`: simulators, policies and corrections that are not part of this package."""

from __future__ import annotations

import importlib
from typing import Any

from rlvla3.errors import RecipeError


def load_named(name: str, key: str) -> Any:
    """The object that `name`, "module:attribute", stands for. key: the setting that holds the name; the error message shows it.

    Raises RecipeError where the object cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if module == "__main__":
        raise RecipeError(
            f"{key}={name} names what the script or notebook itself defines, and no other process can import that: put it into a file of its own beside the "
            f"script, for example my_robot.py, and write {key}=my_robot:{attribute or 'MyClass'}"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{key}={name} cannot be loaded: {error}. Is {module} installed, or in the folder the command runs in?") from error
