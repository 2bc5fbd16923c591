"""Where profiles are found: a file of the user, or a profile that ships with rlvla3."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from rlvla3.config import Recipe, path_of
from rlvla3.errors import RecipeError
from rlvla3.runtimes.virtual.costs import Profile, load_profile

FOLDER = files("rlvla3") / "profiles"


def shipped_profiles() -> list[str]:
    """The names of the profiles that ship with rlvla3."""
    return sorted(Path(entry.name).stem for entry in FOLDER.iterdir() if entry.name.endswith(".yaml")) if FOLDER.is_dir() else []


def find_profile(given: str) -> Profile:
    """The profile that ships with rlvla3 under the name `given`, or the profile in the file `given`. Raises RecipeError if there is none."""
    if given in shipped_profiles():
        with as_file(FOLDER / f"{given}.yaml") as path:
            return load_profile(path)
    if not path_of(given).is_file():
        raise RecipeError(f"{given} is neither a profile's file nor one of the profiles that ship with rlvla3: {', '.join(shipped_profiles()) or 'none'}")
    return load_profile(path_of(given))


def check_single_simulator(recipe: Recipe) -> None:
    """Raise RecipeError if a recipe mixes simulators. A profile has the costs of only one."""
    if len(recipe.mixed) > 1:
        raise RecipeError(
            f"a profile has the costs of one simulator, but this recipe mixes {', '.join(recipe.mixed)}: give a recipe with one of them, under simulator:"
        )


def check_profile(profile: Profile, recipe: Recipe) -> None:
    """Raise RecipeError if the recipe's decisions differ from those that were measured."""
    check_single_simulator(recipe)
    if profile.chunk != recipe.policy.chunk:
        raise RecipeError(
            f"policy.chunk={recipe.policy.chunk}, but profile {profile.name} was measured with {profile.chunk} actions per decision: "
            f"set policy.chunk={profile.chunk}, or use another profile"
        )
