"""LIBERO's five suites of tasks: their names, their sentences, and the initial states that the benchmark keeps for each.

All of it is read from the files of the installed package, which is found and not imported: importing it takes a second, brings its simulator along, and asks
on standard input where to keep data sets.
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
"""Each suite with its longest episode: the limits of OpenVLA's published evaluations, longer than any demonstration of the suite."""

INSTALL = "run `make install`, or pip install 'rlvla3[libero]'"


@dataclass(frozen=True, slots=True)
class Task:
    """A task of a suite."""

    suite: str
    name: str

    def __str__(self) -> str:
        return f"{self.suite}/{self.name}"

    @property
    def instruction(self) -> str:
        """The sentence of published evaluations: the name without the scene that long ones begin with."""
        return re.sub(r"^[A-Z_]+SCENE\d+_", "", self.name).replace("_", " ")

    @property
    def definition(self) -> Path:
        """Objects, regions and goal, in LIBERO's language."""
        return package_folder() / "bddl_files" / self.suite / f"{self.name}.bddl"

    def initial_states(self) -> NDArray[np.float64]:
        """The benchmark's initial states, [states, 1 + nq + nv]: time, positions, velocities."""
        return _read_array(package_folder() / "init_files" / self.suite / f"{self.name}.pruned_init")


def find_task(named: str) -> Task:
    """The task called `named`: libero_goal/3, or libero_goal/open_the_top_drawer_and_put_the_bowl_inside. Raises RecipeError with the names nearest to it."""
    suite, _, which = named.partition("/")
    if suite not in SUITES:
        nearest = difflib.get_close_matches(suite, SUITES, n=1)
        raise RecipeError(f"simulator.tasks: {named!r} is of no suite of LIBERO; {_question(nearest) or 'known are ' + ', '.join(SUITES)}")
    names = task_names(suite)
    if not which:
        raise RecipeError(f"simulator.tasks: {named!r} is a whole suite: write {suite}/0-{len(names) - 1} for all of its tasks, or {suite}/0 for the first")
    if which.isdecimal():
        if int(which) >= len(names):
            raise RecipeError(f"simulator.tasks: {named!r} is not there: the tasks of {suite} are numbered 0 to {len(names) - 1}")
        return Task(suite, names[int(which)])
    if which not in names:
        nearest = difflib.get_close_matches(which, names, n=3, cutoff=0.5)
        way_out = _question([f"{suite}/{name}" for name in nearest]) or f"write {suite}/0 to {suite}/{len(names) - 1}, or one of {', '.join(names)}"
        raise RecipeError(f"simulator.tasks: {named!r} is not a task of {suite}; {way_out}")
    return Task(suite, which)


@functools.cache
def task_names(suite: str) -> tuple[str, ...]:
    """The tasks of `suite` in the benchmark's order, which is what their numbers count."""
    (table,) = ast.parse((package_folder() / "benchmark" / "libero_suite_task_map.py").read_text()).body
    assert isinstance(table, ast.Assign)
    return tuple(ast.literal_eval(table.value)[suite])


@functools.cache
def package_folder() -> Path:
    """Where LIBERO's own files are. Raises RecipeError where it is not installed."""
    missing = [package for package in ("libero", "robosuite", "bddl") if importlib.util.find_spec(package) is None]
    if missing:
        raise RecipeError(f"simulator.name=libero needs {' and '.join(missing)}, not installed here: {INSTALL}")
    spec = importlib.util.find_spec("libero")
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


def _question(nearest: list[str]) -> str:
    return f"did you mean {' or '.join(nearest)}?" if nearest else ""


def _read_array(path: Path) -> NDArray[np.float64]:
    """The array that torch.save wrote to `path`: a zip whose pickle holds it whole, read without torch."""
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        found = _ArrayUnpickler(io.BytesIO(archive.read(pickled))).load()
    return np.asarray(found, np.float64)


class _ArrayUnpickler(pickle.Unpickler):
    """A pickle may name any function to be called: here only what makes a numpy array."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}:
            return super().find_class(module, name)
        if name == "_reconstruct" and module in {"numpy.core.multiarray", "numpy._core.multiarray"}:
            return super().find_class("numpy._core.multiarray", name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
