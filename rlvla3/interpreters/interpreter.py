"""From `simulator.python` to an interpreter that is known to work, and how a program of rlvla3 is started in it.

Invariants:
- an interpreter is asked once in each process: its version, and whether what a simulator's process needs can be imported there. What is wrong is one
  RecipeError, with the command that mends it;
- the path of an interpreter is used as it is given: an environment's `bin/python` is a link, and the file behind it knows nothing of the environment;
- what belongs to this interpreter alone, PYTHONPATH and its packages, does not reach the other one. The user's own folders of modules do.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvla3.errors import INSTALLED, RecipeError
from rlvla3.interpreters import entry
from rlvla3.interpreters.brief_program import run_briefly
from rlvla3.process_ends import ending_in_words

OLDEST = (3, 10)
"""The oldest Python that a simulator's process runs in."""

NEEDED: Mapping[str, tuple[int, int]] = {"numpy": (1, 22), "pydantic": (2, 11), "psutil": (5, 9)}
"""What a simulator's process needs beside the simulator, and the oldest version of it that was tested."""

ENVIRONMENTS = "RLVLA3_ENVIRONMENTS"
"""The environment variable that names the folder of environments."""

QUESTION = """
import json, sys
answer = {"version": list(sys.version_info[:3]), "found": {}, "failed": {}}
if sys.version_info >= (3, 10):
    for name in NAMES:
        try:
            answer["found"][name] = __import__(name).__version__
        except ModuleNotFoundError as error:
            answer["failed"][name] = "" if error.name == name else str(error)
        except BaseException as error:
            answer["failed"][name] = type(error).__name__ + ": " + str(error)
print("\\n" + json.dumps(answer))
"""
"""What an interpreter is asked. Any Python can run it, also one that is too old."""

UNSUITABLE = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__")
"""Variables that say where this interpreter finds its packages."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """An interpreter that was asked, and can run a simulator's process. packages: the versions of what is NEEDED."""

    path: str
    version: tuple[int, int, int]
    packages: Mapping[str, str]


@functools.cache
def find_interpreter(python: str) -> Interpreter:
    """The interpreter that `python` stands for: a path, the folder of an environment, the name of one, or a program such as python3.10.

    Raises RecipeError where there is none, or where a simulator's process cannot run in it.
    """
    path = _path_of(python, f"simulator.python={python}")
    named = f"simulator.python={python}" + (f" ({path})" if path != python else "")
    answer = _ask(path, named)
    version, (found, failed) = tuple(answer["version"]), (answer["found"], answer["failed"])
    written = ".".join(map(str, version))
    if version < OLDEST:
        raise RecipeError(
            f"{named} is Python {written}, and a simulator's process needs {'.'.join(map(str, OLDEST))} or later: make an environment with a newer one"
        )
    missing = [name for name in NEEDED if failed.get(name) == ""]
    old = [name for name in found if _numbers(found[name]) < NEEDED[name]]
    if missing or old:
        wrong = [*(f"no {name}" for name in missing), *(f"{name} {found[name]}, which is older than {_written(NEEDED[name])}" for name in old)]
        raise RecipeError(f"{named} has {' and '.join(wrong)}: run `{install_command(path, [*missing, *old])}`")
    if failed:
        name, why = next(iter(failed.items()))
        raise RecipeError(f"{named} cannot import {name} ({why}): run `{install_command(path, [name], again=True)}`")
    return Interpreter(path, (version[0], version[1], version[2]), found)


def install_command(path: str, names: Sequence[str], again: bool = False) -> str:
    """The command that brings what is NEEDED. again: packages that are there, but broken."""
    how = "--force-reinstall " if again else ""
    return f"{path} -m pip install {how}{' '.join(f'{chr(39)}{name}>={_written(NEEDED[name])}{chr(39)}' for name in names)}"


def environments_folder() -> Path:
    """The folder of environments that `rlvla3 env create` makes."""
    if given := os.environ.get(ENVIRONMENTS):
        return Path(given).expanduser().absolute()
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (data if data.is_absolute() else Path.home() / ".local/share") / "rlvla3" / "environments"


def program(python: str, call: str, *arguments: Any) -> tuple[list[str], dict[str, str]]:
    """The command that calls `call`, "module:function", with `arguments` in an interpreter ("": this one), and the environment variables for it.

    Raises RecipeError where the interpreter is none.
    """
    asked = {"call": call, "arguments": arguments, "path": sys.path if not python else list(_folders_of_user()), "instead": not python}
    path = find_interpreter(python).path if python else sys.executable
    return [path, entry.__file__, json.dumps(asked)], variables_elsewhere() if python else dict(os.environ)


def _path_of(python: str, named: str) -> str:
    """The path of an interpreter. Raises RecipeError where nothing is there. named: what the message begins with."""
    if "/" in python or python.startswith(("~", ".")):
        path = Path(python).expanduser().absolute()
        return str(_runnable(path / "bin" / "python" if (path / "bin").is_dir() else path, named))
    if (environment := environments_folder() / python).is_dir():
        return str(_runnable(environment / "bin" / "python", named))
    if found := shutil.which(python):
        return found
    names = ", ".join(environment_names())
    raise RecipeError(
        f"{named} is no environment in {environments_folder()}{f' (there are: {names})' if names else ''}, and no program that is found: "
        f"make one with `rlvla3 env create`, or write the path of an interpreter, such as /path/to/bin/python"
    )


def version_of(python: str, named: str) -> tuple[str, tuple[int, ...]]:
    """The path and the version of an interpreter, whatever is installed there. named: where it was written, for messages. Raises RecipeError."""
    path = _path_of(python, f"{named} {python}")
    return path, tuple(_ask(path, f"{named} {python}")["version"])


def environment_names() -> list[str]:
    """The environments that there are."""
    folder = environments_folder()
    return sorted(path.name for path in folder.iterdir() if (path / "bin" / "python").exists()) if folder.is_dir() else []


def _runnable(path: Path, named: str) -> Path:
    mended = "make an environment with `rlvla3 env create`, or name another interpreter"
    if path.is_dir():
        raise RecipeError(f"{named} is a folder without bin/python, so no environment of Python: {mended}")
    if not path.exists():
        why = f"is a link to {os.path.realpath(path)}, which is gone" if path.is_symlink() else "is not there"
        raise RecipeError(f"{named} cannot be started: {path} {why}. To mend it, {mended}")
    if not os.access(path, os.X_OK):
        raise RecipeError(f"{named} cannot be started, because it is not executable: run `chmod +x {path}` if it is an interpreter, or {mended}")
    return path


def _ask(path: str, named: str) -> Any:
    """What an interpreter says of itself. Raises RecipeError where it says nothing that can be read."""
    asked = run_briefly([path, "-c", QUESTION.replace("NAMES", repr(tuple(NEEDED)))], variables_elsewhere(), named)
    try:
        answer = json.loads(asked.stdout.decode(errors="replace").strip().rpartition("\n")[2])
        tuple(answer["version"]), dict(answer["found"]), dict(answer["failed"])
    except (ValueError, KeyError, TypeError) as error:
        said = (asked.stderr or asked.stdout).decode(errors="replace").strip().rpartition("\n")[2]
        ended = ending_in_words(asked.returncode) if asked.returncode else "it ended without an answer"
        raise RecipeError(
            f"{named} does not work as an interpreter of Python: {ended}{f', and said: {said:.200}' if said else ''}. Make the environment anew, "
            f"or name another interpreter"
        ) from error
    return answer


def variables_elsewhere() -> dict[str, str]:
    """The environment variables of a process in another interpreter."""
    return {name: value for name, value in os.environ.items() if name not in UNSUITABLE}


def _folders_of_user() -> Iterator[str]:
    """What of `sys.path` holds modules of the user's own, and no packages that were installed for this interpreter."""
    for folder in map(os.path.abspath, sys.path):
        if os.path.isdir(folder) and not (os.path.realpath(folder) + os.sep).startswith(INSTALLED) and not _holds_packages(folder):  # noqa: PTH112
            yield folder


def _holds_packages(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(".dist-info") for entry in entries)


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def _written(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
