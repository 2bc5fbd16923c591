"""How an ID of Gymnasium is found: packages register their environments only when they are imported.

`gymnasium:ID` is an ID that is registered, or one of a package that is known here. `gymnasium:PACKAGE/ID` names the package too. Any other package is
written as Gymnasium writes it, `gymnasium:MODULE:ID`. Invariant: no other module than those of PACKAGES is imported for an ID without a module.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec

import gymnasium
from gymnasium.error import Error

from rlvla3.errors import RecipeError
from rlvla3.named import call_of_user

PACKAGES = {"gym_aloha": "gym-aloha", "gym_hil": "gym-hil", "gym_pusht": "gym-pusht", "gymnasium_robotics": "gymnasium-robotics"}
"""{module: what pip calls it}. Their modules register their environments."""

WITHOUT_NAMESPACE = ("gymnasium_robotics",)
"""Packages whose IDs do not begin with the name of the package."""


def registered_id(identifier: str) -> str:
    """The ID that Gymnasium knows the environment by. Imports the package that registers it. Raises RecipeError where there is none."""
    if ":" in identifier or _is_known(identifier):
        return identifier
    package, _, rest = identifier.rpartition("/")
    if package in PACKAGES:
        if find_spec(package) is None:
            raise RecipeError(f"simulator.name=gymnasium:{identifier} needs the package {PACKAGES[package]}: run `pip install {PACKAGES[package]}`")
        call_of_user(importlib.import_module, f"simulator.name=gymnasium:{identifier}: the package {PACKAGES[package]} cannot be imported", package)
        return next((known for known in (identifier, rest) if _is_known(known)), identifier)
    for module in WITHOUT_NAMESPACE:
        if not package and find_spec(module) is not None:
            call_of_user(importlib.import_module, f"simulator.name=gymnasium:{identifier}: the package {PACKAGES[module]} cannot be imported", module)
    if not _is_known(identifier):
        raise RecipeError(_unknown(identifier))
    return identifier


def _is_known(identifier: str) -> bool:
    try:
        gymnasium.spec(identifier)
    except Error:
        return False
    return True


def _unknown(identifier: str) -> str:
    try:
        gymnasium.spec(identifier)
    except Error as error:
        said = str(error).rstrip(".")
    return (
        f"simulator.name=gymnasium:{identifier} is not registered ({said}). If a package registers it when it is imported, write the module's name before it: "
        f"gymnasium:MODULE:{identifier}"
    )
