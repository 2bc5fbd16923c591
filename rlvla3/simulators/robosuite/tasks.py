"""What is known of robosuite's and RoboCasa's tasks without importing either."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from rlvla3.errors import RecipeError

INSTRUCTIONS: Mapping[str, str] = {
    "Lift": "lift the red cube",
    "Stack": "stack the red cube on the green cube",
    "NutAssembly": "put the square nut and the round nut on their pegs",
    "NutAssemblySquare": "put the square nut on the square peg",
    "NutAssemblyRound": "put the round nut on the round peg",
    "PickPlace": "put the milk, the bread, the cereal and the can into their bins",
    "PickPlaceMilk": "put the milk into its bin",
    "PickPlaceBread": "put the bread into its bin",
    "PickPlaceCereal": "put the cereal into its bin",
    "PickPlaceCan": "put the can into its bin",
    "Door": "open the door",
    "Wipe": "wipe the marks off the table",
}
"""robosuite's tasks for one arm. No sentences ship with them.

Not among them are NutAssemblySingle and PickPlaceSingle, which choose their object out of a set of names: Python orders that differently in every process,
so the same seed would be another object. Each object has a task of its own.
"""

MOBILE_ROBOT_VERSION = (1, 5)
"""The first robosuite with robots that drive."""


def robosuite_version() -> tuple[int, ...] | None:
    """Such as (1, 4, 0); None where it is not installed."""
    try:
        return tuple(int(number) for number in re.findall(r"\d+", importlib.metadata.version("robosuite"))[:3])
    except importlib.metadata.PackageNotFoundError:
        return None


def package_folder(package: str) -> Path | None:
    """Where `package` is installed, found without importing it."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def robocasa_tasks(robocasa: Path) -> list[str]:
    """The tasks of RoboCasa in the folder it is installed in: the classes in its kitchens, of which there are hundreds, differing from version to version."""
    files = sorted((robocasa / "environments" / "kitchen").rglob("*.py"))
    return [name for file in files for name in re.findall(r"^class (\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)]


def check_tasks(package: str, tasks: list[str], known: Collection[str]) -> None:
    """Raises RecipeError where there are no tasks, or one is not known."""
    if not tasks:
        example = next(iter(known), "")
        raise RecipeError(f"simulator.tasks is empty, and {package} has {len(known)} tasks to choose from: for example simulator.tasks=[{example}]")
    for task in tasks:
        if task not in known:
            close = difflib.get_close_matches(task, known, n=3) or sorted(known)[:20]
            raise RecipeError(f"simulator.tasks: {task!r} is not a task of {package} for one arm; did you mean {' or '.join(close)}?")
