"""Makes, lists and checks environments of Python for simulators: `rlvla3 env create`, `rlvla3 env list` and `rlvla3 env check`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rlvla3.config import SimulatorConfig
from rlvla3.errors import ExplainedError
from rlvla3.interpreters.environments import PINS, all_environments, create_environment, differences, simulator_of
from rlvla3.interpreters.interpreter import environment_names, environments_folder, find_interpreter
from rlvla3.simulators.description import described


def run(arguments: argparse.Namespace) -> bool:
    """Run one action. Returns whether all is well."""
    match arguments.action:
        case "create":
            return create(arguments.name, arguments.python, arguments.path)
        case "check" if arguments.name is None:
            return check_all()
        case "check":
            return check(arguments.name, arguments.simulator)
        case _:
            list_all()
            return True


def create(name: str, python: str, path: Path | None) -> bool:
    """Make an environment, and check it. Raises BrokenEnvironment and RecipeError."""
    folder = create_environment(name, python, path, say=lambda said: print(said, flush=True))
    named = str(folder) if path is not None else name
    works = check(named, name)
    if works:
        print(f"use it with simulator.python={named}", flush=True)
    return works


def list_all() -> None:
    """Print the environments that there are, and those that can be made."""
    print(f"environments in {environments_folder()}:")
    there = environment_names()
    for name in all_environments():
        print(f"  {name:<12} {_state(name) if name in there else f'not made: rlvla3 env create {name}'}")


def check_all() -> bool:
    """Check every environment that there is. Returns whether all work."""
    names = environment_names()
    if not names:
        print(f"there are no environments in {environments_folder()}: make one of {', '.join(PINS)} with `rlvla3 env create`")
    return not [name for name in names if not check(name)]  # all of them are looked at


def check(name: str, simulator: str | None = None) -> bool:
    """Print whether an environment works. name: of the environment, or its path. simulator: that it is for, where that is not known."""
    pins = None
    try:
        find_interpreter.cache_clear()
        found = find_interpreter(name)
        print(f"{name}: Python {'.'.join(map(str, found.version))}, " + ", ".join(f"{package} {version}" for package, version in found.packages.items()))
        simulator = simulator or simulator_of(Path(found.path).parent.parent) or (name if name in PINS else None)
        if simulator is None:
            print(f"{name}: which simulator it is for is not known: say it with --simulator")
            return True
        pins = PINS.get(simulator)
        for difference in differences(simulator, found.path) if pins else []:
            print(f"{name}: {difference}")
        described(SimulatorConfig(name=simulator, python=name, tasks=[pins.task] if pins else [], max_steps=1))  # an environment may have no limit of its own
    except ExplainedError as error:
        print(f"{name}: does not work: {error}")
        if pins is not None and pins.beside:
            print(f"{name}: {pins.beside.format(python=found.path)}")
        return False
    print(f"{name}: works, simulator {simulator} can be described")
    return True


def _state(name: str) -> str:
    folder = environments_folder() / name
    simulator = simulator_of(folder)
    if simulator is None:
        return f"made by other software, or unfinished: if it is unfinished, remove it with `rm -r {folder}`"
    return f"made for {simulator}" + ("" if simulator == name else f", as {name}")
