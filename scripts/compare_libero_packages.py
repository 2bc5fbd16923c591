"""Compare two installed packages of LIBERO: tasks and their order, instructions, definitions, initial states, and physics.

Each package is in an environment of its own, because both are the folder `libero`. Neither environment needs rlvla3:

    python scripts/compare_libero_packages.py PYTHON OTHER_PYTHON --assets FOLDER

PYTHON, OTHER_PYTHON   the interpreters of the two environments. With the same versions of mujoco, robosuite and numpy, physics can be compared bit for bit
--assets               meshes and textures for a package that has none (hf-libero)
--tasks SUITE/NUMBER   the tasks whose physics is compared. Each takes some seconds

What is compared is what LIBERO's own interface says: the package `benchmark`, and ControlEnv as published evaluations use it (seed, reset, set_init_state,
steps). docs/simulators.md has the result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
TASKS = ("libero_spatial/0", "libero_object/0", "libero_goal/7", "libero_10/2", "libero_90/40")
STATES, SETTLING, STEPS = (0, 17), 10, 60
"""The initial states that physics begins from, the steps in which objects settle, and the steps with actions."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def described(benchmark: Any) -> dict[str, Any]:
    """Of every task of the five suites, in their order: what LIBERO's benchmark says."""
    facts = {}
    for name in SUITES:
        suite = benchmark.get_benchmark(name)()
        for number in range(suite.get_num_tasks()):
            task, states = suite.get_task(number), suite.get_task_init_states(number)
            facts[f"{name}/{number}"] = {
                "name": task.name,
                "instruction": task.language,
                "definition": digest(Path(suite.get_task_bddl_file_path(number)).read_bytes()),
                "initial states": [list(states.shape), str(states.dtype), digest(states.tobytes())],
            }
    return facts


def simulated(benchmark: Any, task: str) -> list[list[float]]:
    """The flat MuJoCo state after every step of fixed actions, from each of STATES."""
    import numpy as np
    from libero.libero.envs.env_wrapper import ControlEnv

    name, _, number = task.partition("/")
    suite = benchmark.get_benchmark(name)()
    environment = ControlEnv(bddl_file_name=suite.get_task_bddl_file_path(int(number)), use_camera_obs=False, has_offscreen_renderer=False)
    states, passed = suite.get_task_init_states(int(number)), []
    for state in STATES:
        environment.seed(7)
        environment.reset()
        environment.set_init_state(states[state])
        moves = np.random.default_rng(state).uniform(-1, 1, (STEPS, 7))
        for action in [np.array([0, 0, 0, 0, 0, 0, -1.0])] * SETTLING + list(moves):
            environment.step(action)
            passed.append(environment.sim.get_state().flatten().tolist())
    environment.close()
    return passed


def report(assets: str | None, tasks: list[str]) -> dict[str, Any]:
    """All that is compared, of the LIBERO that this interpreter has."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIBERO_CONFIG_PATH"] = folder  # without a configuration, hf-libero asks on standard input
        if assets is not None:
            (Path(folder) / "config.yaml").write_text(json.dumps(_paths(assets)))
        import libero.libero as package
        from libero.libero import benchmark

        if assets is not None:
            package._assets_path_cache = assets
        return {
            "versions": {name: version(name) for name in ("robosuite", "mujoco", "numpy")},
            "tasks": described(benchmark),
            "physics": {task: simulated(benchmark, task) for task in tasks},
        }


def _paths(assets: str) -> dict[str, str]:
    from importlib.util import find_spec

    spec = find_spec("libero")
    assert spec is not None and spec.submodule_search_locations
    root = Path(next(iter(spec.submodule_search_locations))) / "libero"
    return {"benchmark_root": str(root), "bddl_files": str(root / "bddl_files"), "init_states": str(root / "init_files"), "assets": assets}


def of_interpreter(python: str, assets: str | None, tasks: list[str]) -> dict[str, Any]:
    """The report that `python` makes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        arguments = ["--report", str(file), "--tasks", *tasks, *(["--assets", assets] if assets else [])]
        subprocess.run([python, __file__, *arguments], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(file.read_text())
    return found


def compare(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Print what is the same, and what is not."""
    print(f"versions: {one['versions']} and {other['versions']}")
    for fact in ("name", "instruction", "definition", "initial states"):
        differ = [task for task, facts in one["tasks"].items() if other["tasks"].get(task, {}).get(fact) != facts[fact]]
        print(f"{fact}: the same in {len(one['tasks']) - len(differ)} of {len(one['tasks'])} tasks" + (f"; not in {', '.join(differ)}" if differ else ""))
    for task, passed in one["physics"].items():
        steps = list(zip(passed, other["physics"][task], strict=True))
        same = sum(a == b for a, b in steps)
        largest = max(abs(x - y) for a, b in steps for x, y in zip(a, b, strict=True))
        print(f"physics of {task}: bit for bit the same after {same} of {len(steps)} steps; the largest difference is {largest:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="*", metavar="PYTHON")
    parser.add_argument("--assets")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--report", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.report:
        Path(given.report).write_text(json.dumps(report(given.assets, given.tasks)))
    elif len(given.pythons) == 2:
        one, other = given.pythons
        compare(of_interpreter(one, None, given.tasks), of_interpreter(other, given.assets, given.tasks))
    else:
        sys.exit("name the interpreters of the two environments")


if __name__ == "__main__":
    main()
