"""The tasks of robosuite and RoboCasa, and the installed version of robosuite. Neither package is imported."""

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
"""robosuite's tasks for one arm, with our instructions: robosuite has none.

NutAssemblySingle and PickPlaceSingle are left out. They choose their object from a set of names, and Python orders a set differently in every process, so the
same seed would give another object. Each object has a task of its own in this table.
"""

MOBILE_ROBOT_VERSION = (1, 5)
"""The first version of robosuite with mobile robots."""


def robosuite_version() -> tuple[int, ...] | None:
    """The installed version, such as (1, 4, 0); None if robosuite is not installed."""
    try:
        return tuple(int(number) for number in re.findall(r"\d+", importlib.metadata.version("robosuite"))[:3])
    except importlib.metadata.PackageNotFoundError:
        return None


def package_folder(package: str) -> Path | None:
    """The folder that `package` is installed in; None if it is not installed. The package is not imported."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def robocasa_tasks(robocasa: Path) -> list[str]:
    """The tasks of the RoboCasa installed in folder `robocasa`: the classes in its kitchen modules. There are hundreds, and versions differ."""
    files = sorted((robocasa / "environments" / "kitchen").rglob("*.py"))
    return [name for file in files for name in re.findall(r"^class (\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)]


def check_tasks(package: str, tasks: list[str], known: Collection[str]) -> None:
    """Raise RecipeError if `tasks` is empty, or if one of them is not in `known`."""
    if not tasks:
        example = next(iter(known), "")
        raise RecipeError(f"simulator.tasks is empty: choose among the {len(known)} tasks of {package}, for example simulator.tasks=[{example}]")
    for task in tasks:
        if task not in known:
            close = difflib.get_close_matches(task, known, n=3) or sorted(known)[:20]
            raise RecipeError(f"simulator.tasks: {task!r} is not a task of {package} for one arm; did you mean {' or '.join(close)}?")
