"""LIBERO's five suites of tasks: their names, their instructions, and the benchmark's initial states of each task.

All of it is read from the files of the installed package. The package is located but not imported: the import takes a second, imports the simulator too, and
asks on standard input where to keep data sets.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.errors import RecipeError

SUITES: Mapping[str, int] = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
"""Each suite with its longest episode in steps. These are the limits of OpenVLA's published evaluations; no demonstration of the suite is longer."""

INSTALL = "run `make install`, or pip install 'rlvla3[libero]'"


@dataclass(frozen=True, slots=True)
class LiberoTask:
    """A task of one of LIBERO's suites."""

    suite: str
    name: str

    def __str__(self) -> str:
        return f"{self.suite}/{self.name}"

    @property
    def instruction(self) -> str:
        """The instruction that published evaluations use: the task's name without the name of the scene, with which some names begin."""
        return re.sub(r"^[A-Z_]+SCENE\d+_", "", self.name).replace("_", " ")

    @property
    def definition(self) -> Path:
        """The file that defines objects, regions and goal, in LIBERO's language BDDL."""
        return package_folder() / "bddl_files" / self.suite / f"{self.name}.bddl"

    def initial_states(self) -> NDArray[np.float64]:
        """The benchmark's initial states, [states, 1 + nq + nv]: time, positions, velocities."""
        return _read_array(package_folder() / "init_files" / self.suite / f"{self.name}.pruned_init")

    @property
    def initial_state_count(self) -> int:
        """How many initial states the benchmark has for this task: 50."""
        return _count_initial_states(self)


def find_task(name: str) -> LiberoTask:
    """The task `name`, such as libero_goal/3 or libero_goal/open_the_top_drawer_and_put_the_bowl_inside. Raises RecipeError with similar names."""
    suite, _, which = name.partition("/")
    if suite not in SUITES:
        nearest = difflib.get_close_matches(suite, SUITES, n=1)
        raise RecipeError(f"simulator.tasks: {name!r} is in no suite of LIBERO; {_question(nearest) or 'known are ' + ', '.join(SUITES)}")
    names = task_names(suite)
    if not which:
        raise RecipeError(f"simulator.tasks: {name!r} is a whole suite: write {suite}/0-{len(names) - 1} for all of its tasks, or {suite}/0 for the first")
    if which.isdecimal():
        if int(which) >= len(names):
            raise RecipeError(f"simulator.tasks: {name!r} does not exist: the tasks of {suite} are numbered 0 to {len(names) - 1}")
        return LiberoTask(suite, names[int(which)])
    if which not in names:
        nearest = difflib.get_close_matches(which, names, n=3, cutoff=0.5)
        way_out = _question([f"{suite}/{similar}" for similar in nearest]) or f"write {suite}/0 to {suite}/{len(names) - 1}, or one of {', '.join(names)}"
        raise RecipeError(f"simulator.tasks: {name!r} is not a task of {suite}; {way_out}")
    return LiberoTask(suite, which)


@functools.cache
def task_names(suite: str) -> tuple[str, ...]:
    """The tasks of `suite` in the benchmark's order. A task's number is its place in this order."""
    (table,) = ast.parse((package_folder() / "benchmark" / "libero_suite_task_map.py").read_text()).body
    assert isinstance(table, ast.Assign)
    return tuple(ast.literal_eval(table.value)[suite])


@functools.cache
def _count_initial_states(task: LiberoTask) -> int:
    """Counted once in a process, because the file has to be read for it."""
    return len(task.initial_states())


@functools.cache
def package_folder() -> Path:
    """The folder of LIBERO's own files. Raises RecipeError if LIBERO is not installed."""
    missing = [package for package in ("libero", "robosuite", "bddl") if importlib.util.find_spec(package) is None]
    if missing:
        raise RecipeError(f"simulator.name=libero needs {' and '.join(missing)}, but this is not installed: {INSTALL}")
    spec = importlib.util.find_spec("libero")
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


def _question(nearest: list[str]) -> str:
    return f"did you mean {' or '.join(nearest)}?" if nearest else ""


def _read_array(path: Path) -> NDArray[np.float64]:
    """The array that torch.save wrote to `path`, read without torch. The file is a zip archive, and its pickle holds the whole array."""
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        found = _ArrayUnpickler(io.BytesIO(archive.read(pickled))).load()
    return np.asarray(found, np.float64)


class _ArrayUnpickler(pickle.Unpickler):
    """Loads a numpy array and nothing else. A pickle can call any function by its name; this class refuses all that an array does not need."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}:
            return super().find_class(module, name)
        if name == "_reconstruct" and module in {"numpy.core.multiarray", "numpy._core.multiarray"}:
            return super().find_class("numpy._core.multiarray", name)
        raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
