"""Where profiles are found: a file of one's own, or one that ships with the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from rlvla3.config import Recipe
from rlvla3.errors import RecipeError
from rlvla3.runtimes.virtual.costs import Profile, load_profile

FOLDER = files("rlvla3") / "profiles"


def shipped() -> list[str]:
    """The names of the profiles that ship with rlvla3."""
    return sorted(Path(entry.name).stem for entry in FOLDER.iterdir() if entry.name.endswith(".yaml")) if FOLDER.is_dir() else []


def find_profile(given: str) -> Profile:
    """The profile at a path, or the shipped one of that name. Raises RecipeError."""
    if given in shipped():
        with as_file(FOLDER / f"{given}.yaml") as path:
            return load_profile(path)
    if not Path(given).is_file():
        raise RecipeError(f"{given} is neither a profile's file nor one of those that ship with rlvla3: {', '.join(shipped()) or 'none'}")
    return load_profile(Path(given))


def check_alone(recipe: Recipe) -> None:
    """Raises RecipeError where a recipe mixes simulators: a profile knows one."""
    if len(recipe.mixed) > 1:
        raise RecipeError(
            f"a profile has the costs of one simulator, and this recipe mixes {', '.join(recipe.mixed)}: give a recipe with one of them, as simulator:"
        )


def check_profile(profile: Profile, recipe: Recipe) -> None:
    """Raises RecipeError where a recipe's decisions are not those that were measured."""
    check_alone(recipe)
    if profile.chunk != recipe.policy.chunk:
        raise RecipeError(
            f"policy.chunk={recipe.policy.chunk} is not what profile {profile.name} was measured with, {profile.chunk} actions a decision: "
            f"set policy.chunk={profile.chunk}, or use another profile"
        )
