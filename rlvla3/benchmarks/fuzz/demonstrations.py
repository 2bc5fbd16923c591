"""Broken demonstration files and broken records of runs. Each must be read to its last frame, or be refused in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.benchmarks.fuzz.good_demonstrations import FORMS, LIBERO_TASK, SIDE, STATE, STEPS, recording, write_rows
from rlvla3.benchmarks.fuzz.mutations import ODD_NUMBERS, ODD_TEXTS, broken_bytes, broken_file, broken_tree, odd_value
from rlvla3.benchmarks.fuzz.subject import Subject
from rlvla3.config import Recipe, Section, SimulatorConfig, check_options, make_recipe
from rlvla3.demonstrations.demonstration_file import import_optional
from rlvla3.demonstrations.selection import notices, select_demonstrations
from rlvla3.observability.run_record import RunRecord
from rlvla3.simulators.base import Simulator
from rlvla3.simulators.common_spaces import common_spaces
from rlvla3.training.cloning import DemonstrationSelection
from rlvla3.types import ActionSpace, Observation, Outcome, Spaces, Ticket

RECORD = "record"
TASKS = {"libero": LIBERO_TASK, "maniskill": "PickCube-v1", "lerobot": "stack_the_blocks"}
ODD_LAYOUTS = ("actions", "state", "cameras", "tasks", "orientation")


class DescribedOptions(Section):
    """Settings of the simulator below."""

    action: int = 7
    """Numbers in an action."""

    cameras: list[str] = ["agentview"]
    """Its cameras."""


class Described(Simulator):
    """A simulator that the good files could be of. It is described and never built."""

    Options = DescribedOptions

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        options = check_options(DescribedOptions, config.options, "simulator.options")
        cameras = dict.fromkeys(options.cameras, (SIDE, SIDE, 3))
        return Spaces(cameras, STATE, ActionSpace("continuous", options.action), 20, tuple(task.replace("_", " ") for task in config.tasks))

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        raise NotImplementedError("it is only described")

    def reset(self, slot: int, ticket: Ticket) -> Observation:
        raise NotImplementedError

    def step(self, chunks: Mapping[int, NDArray[np.float32] | None]) -> dict[int, Outcome]:
        raise NotImplementedError


class Demonstrations(Subject):
    """A case is a folder `files`, and form.json with the format and the recipe's clone.layout."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for form, write in FORMS.items():
            (folder / form).mkdir()
            write(folder / form)
            self._read_files(folder / form, form, {})
        (folder / RECORD).mkdir()
        recording(folder / RECORD, _recipe("libero", Path(), {}))
        self._read_record(folder / RECORD)

    def make(self, random: Random, folder: Path) -> str:
        form = random.choice([*FORMS, RECORD])
        shutil.copytree(self.folder / form, folder / "files")
        layout: dict[str, Any] = {}
        if form != RECORD and random.random() < 0.05:
            key = random.choice(ODD_LAYOUTS)
            layout, said = {key: odd_value(random)}, f"clone.layout.{key} is odd"
        else:
            said = "; ".join(_break(folder / "files", random) for _ in range(random.choice((1, 1, 1, 2))))
        (folder / "form.json").write_text(json.dumps({"form": form, "layout": layout}))
        return f"{form}: {said}"

    def read(self, folder: Path) -> None:
        about = json.loads((folder / "form.json").read_text())
        if about["form"] == RECORD:
            self._read_record(folder / "files")
        else:
            self._read_files(folder / "files", about["form"], about["layout"])

    def _read_files(self, folder: Path, form: str, layout: dict[str, Any]) -> None:
        """Select, check and read, as a run that clones does."""
        recipe = _recipe(form, folder, layout)
        assert recipe.clone is not None
        selected = select_demonstrations(recipe)
        notices(selected)
        demonstrations = DemonstrationSelection(common_spaces(recipe), recipe.policy.chunk, recipe.tasks, recipe.clone.demonstrations)
        for number, demonstration in enumerate(selected):
            demonstrations.add(number, demonstration)
        observations, actions = demonstrations.tensors()
        if not (observations.state.isfinite().all() and actions.isfinite().all()):
            raise AssertionError("a policy would learn from numbers that are not finite")

    def _read_record(self, folder: Path) -> None:
        RunRecord(folder / "record").recorded_run(2)


def _recipe(form: str, folder: Path, layout: dict[str, Any]) -> Recipe:
    kind = form.partition(" ")[0]
    place = {"libero": f"{folder}/*/*.hdf5", "maniskill": f"{folder}/*.h5"}.get(kind, str(folder))
    options = {"action": 4 if kind == "maniskill" else 7, "cameras": [] if form == "maniskill" else ["agentview"]}
    return make_recipe(
        {
            "simulator": {"name": f"{__name__}:Described", "tasks": [TASKS[kind]], "options": options},
            "policy": {"name": "actor_critic", "chunk": 2, "options": {"hidden": 8}},
            "clone": {"demonstrations": len(STEPS), "files": [place], "layout": layout},
            "training": {"batch": 2, "steps": 1},
        }
    )


def _break(folder: Path, random: Random) -> str:
    """One change of one file in `folder`. Returns it in words."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return "nothing is left"
    path = random.choice(files)
    kind = random.random()
    if kind < 0.12:
        return f"{path.name} {_replaced(path, files, random)}"
    return f"{path.name}: {broken_file(path, random, None if kind < 0.3 else BREAKERS.get(path.suffix))}"


def _replaced(path: Path, files: list[Path], random: Random) -> str:
    """Put something else in the place of a file."""
    match random.choice(("gone", "empty", "folder", "other", "endless", "loop")):
        case "gone":
            path.unlink()
            return "is missing"
        case "empty":
            path.write_bytes(b"")
            return "is empty"
        case "folder":
            path.unlink()
            path.mkdir()
            return "is a folder"
        case "other":
            other = random.choice(files)
            path.write_bytes(other.read_bytes())
            return f"is {other.name}"
        case "endless":
            path.unlink()
            path.symlink_to("/dev/zero")
            return "is an endless device"
        case _:
            path.unlink()
            path.symlink_to(path.name)
            return "is a link to itself"


def _break_json(path: Path, random: Random) -> str:
    tree, said = broken_tree(json.loads(path.read_text()), random)
    path.write_text(json.dumps(tree))
    return said


def _break_lines(path: Path, random: Random) -> str:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    tree, said = broken_tree(lines, random)
    path.write_text("\n".join(json.dumps(line) for line in (tree if isinstance(tree, list) else [tree])))
    return said


def _break_rows(path: Path, random: Random) -> str:
    parquet = import_optional("pyarrow.parquet")
    rows = parquet.read_table(path).to_pylist()
    match random.choice(("tree", "tree", "column", "column", "number", "rows", "image")):
        case "column":
            name = random.choice(list(rows[0]))
            value = odd_value(random)
            for row in rows:
                row[name] = [value] * len(row[name]) if isinstance(row[name], list) and random.random() < 0.5 else value
            said = f"{name} is {value!r:.40} in every row"
        case "number":
            row, name = random.choice(rows), random.choice([name for name, value in rows[0].items() if isinstance(value, list)])
            row[name][0] = float(random.choice(ODD_NUMBERS[:18]) if random.random() < 0.5 else random.choice(ODD_NUMBERS[20:]))
            said = f"a number of {name} is {row[name][0]}"
        case "rows":
            count = random.randrange(len(rows) + 1)
            rows, said = (rows[:count], f"{count} rows are left") if random.random() < 0.5 else (rows + rows[:count], f"{count} rows stand twice")
        case "image" if any(isinstance(value, dict) for value in rows[0].values()):
            row = random.choice(rows)
            name = next(name for name, value in row.items() if isinstance(value, dict))
            row[name]["bytes"], said = broken_bytes(row[name]["bytes"], random)
        case _:
            rows, said = broken_tree(rows, random)
    write_rows(path, rows)
    return said


def _break_hdf5(path: Path, random: Random) -> str:
    h5py = import_optional("h5py")
    with h5py.File(path, "a") as file:
        names: list[str] = []
        file.visit(names.append)
        name = random.choice(names)
        item = file[name]
        if random.random() < 0.15:
            owner = file.get("data", item)
            key = random.choice([*owner.attrs, "macros_image_convention", "problem_info", "bddl_file_name"])
            owner.attrs[key] = value = odd_attribute(random)
            return f"attribute {key} is {value!r:.40}"
        data = item[()] if isinstance(item, h5py.Dataset) else None
        del file[name]
        match random.choice(("gone", "renamed", "link", "elsewhere", "value", "array", "array", "array", "array", "number", "group")):
            case "gone":
                return f"{name} is missing"
            case "renamed":
                if data is not None:
                    file[f"{name}s"] = data
                return f"{name} is called {name}s"
            case "link":
                file[name] = h5py.SoftLink(random.choice((f"/{name}", "/", "/nowhere", "/data", "/traj_1")))
                return f"{name} is a link"
            case "elsewhere":
                file[name] = h5py.ExternalLink(random.choice((path.name, "nowhere.h5", "/dev/zero")), "/")
                return f"{name} is in another file"
            case "group":
                file.create_group(name)
                return f"{name} is an empty group"
            case "number" if isinstance(data, np.ndarray) and data.size and data.dtype.kind == "f":
                data.reshape(-1)[random.randrange(data.size)] = random.choice((np.nan, np.inf, -np.inf, 1e30, 7.0, 1e-40))
                file[name] = data
                return f"a number of {name} is odd"
            case "array" if data is not None:
                file[name], said = odd_array(np.asarray(data), random)
                return f"{name} {said}"
            case _:
                file[name] = value = odd_attribute(random)
                return f"{name} is {value!r:.40}"


def odd_attribute(random: Random) -> Any:
    """Something that HDF5 can hold, and that nobody expects."""
    texts = [text for text in ODD_TEXTS if "\0" not in text and len(text) < 1000 and text.isprintable()]
    return random.choice((0, -1, 2**40, 1.5, float("nan"), np.zeros((0,)), np.zeros((2, 3)), np.array([b"a", b"b"]), b"\xff\xfe", "{", "[" * 2000, *texts))


def odd_array(array: NDArray[Any], random: Random) -> tuple[NDArray[Any], str]:
    """An array of another shape, length or format."""
    length = len(array) if array.ndim else 0
    match random.choice(("shorter", "longer", "empty", "one", "flat", "deeper", "dtype", "scaled", "wide")):
        case "shorter":
            return array[: length // 2], "is shorter"
        case "longer":
            return np.concatenate([array, array]) if length else array, "is longer"
        case "empty":
            return array[:0] if length else array, "is empty"
        case "one":
            return array[:1] if length else array, "has one entry"
        case "flat":
            return array.reshape(-1), "is flat"
        case "deeper":
            return array[None], "has one dimension more"
        case "scaled":
            return array.astype(np.float64) * random.choice((0, -1, 2, 255, 1e-3, 1e300)) if array.dtype.kind in "biuf" else array, "is scaled"
        case "wide":
            return np.repeat(array, 50, axis=-1) if length else array, "is wide"
        case _:
            dtype = random.choice(("S5", "bool", "int8", "uint64", "float16", "complex64", "f8", ">f4"))
            return array.astype(dtype) if array.dtype.kind in "biuf" else array, f"is {dtype}"


BREAKERS = {
    ".json": _break_json,
    ".jsonl": _break_lines,
    ".parquet": _break_rows,
    ".hdf5": _break_hdf5,
    ".h5": _break_hdf5,
}
"""How files of each kind are broken within their format."""
