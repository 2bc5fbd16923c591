"""Imports what a recipe names as `module:Class`: simulators, policies and corrections that are not part of this package.

What a name may be:
- policy.name: a subclass of Policy. algorithm.correction.name: a subclass of Correction;
- simulator.name: a subclass of Simulator, a subclass of gymnasium.Env, or a function written in Python that makes a gymnasium.Env;
- the module is a file of the user or an installed package. A module of Python itself, such as os, is none of these, and is not imported.
Whoever loads a name checks its kind before it is called. observability/trust.py says whose names may be loaded at all.

Invariant: a file or package in the working folder wins over an installed one of the same name, as it does for a script that runs there. No package of the
working folder takes the place of a module that is loaded already, because rlvla3 or Python needs that one.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from rlvla3.errors import ExplainedError, RecipeError, described, place_in_code_of_user

P = ParamSpec("P")
T = TypeVar("T")


_working_folder: list[str] = []
"""The folder that `rlvla3` was called in. Empty in a script, where Python itself searches the script's folder."""


def note_working_folder(folder: str) -> None:
    """The command line runs in `folder`. It is searched for modules of the user from the moment on when a command needs one."""
    _working_folder[:] = [folder]


def search_working_folder() -> None:
    """Search the command line's folder for modules of the user. Workers that start later do so too, because they get this process's path.

    Until this call nothing is imported from that folder. A folder that came from somebody else may hold a file with the name of any package.
    """
    sys.path += [folder for folder in _working_folder if folder not in sys.path]


def load_named(name: str, key: str) -> Any:
    """The object that `name`, "module:attribute", stands for. key: the setting that holds the name; the error message shows it.

    Raises RecipeError where the object cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise RecipeError(f"{key}={name!r} is no name of a class: write module:Class, for example my_robot:MyClass for the class MyClass in my_robot.py")
    if module == "__main__":
        raise RecipeError(
            f"{key}={name} names what the script or notebook itself defines, and no other process can import that: put it into a file of its own beside the "
            f"script, for example my_robot.py, and write {key}=my_robot:{attribute}"
        )
    loaded = call_of_user(_import, f"{key}={name} cannot be loaded", name, key)
    if not hasattr(loaded, attribute):
        file = getattr(loaded, "__file__", None) or module
        raise RecipeError(f"{key}={name} cannot be loaded: {file} has no {attribute}. Write the name of a class or function that it has")
    return getattr(loaded, attribute)


def call_of_user(function: Callable[P, T], said: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function`, which is code of the user or leads to it. Raises RecipeError for any error in it: what is `said`, the error, and its place."""
    try:
        return function(*args, **kwargs)
    except ExplainedError:
        raise
    except (Exception, SystemExit) as error:
        place = place_in_code_of_user(error)
        raise RecipeError(f"{said}: {described(error)}" + (f" ({place})" if place else "")) from error


def _import(name: str, key: str) -> Any:
    module = name.partition(":")[0]
    top = module.partition(".")[0]
    folder = str(Path.cwd())
    here = PathFinder.find_spec(top, [folder]) if folder in sys.path else None
    if here is not None and here.loader is not None and here.origin is not None:
        if top not in sys.modules:
            _execute(top, here, here.loader)
        elif os.path.realpath(other := getattr(sys.modules[top], "__file__", None) or top) != os.path.realpath(here.origin):
            raise RecipeError(f"{key}={name} means {here.origin}, but {other} has the same name, and is in use already: give your file another name")
    elif top in sys.stdlib_module_names:
        raise RecipeError(f"{key}={name} cannot be loaded: {top} is a module of Python itself. Name a class of your own, or of an installed package")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise RecipeError(
                f"{key}={name} cannot be loaded: there is no module {error.name}. Is it installed, or in the folder the command runs in?"
            ) from error
        raise


def _execute(name: str, found: ModuleSpec, loader: Loader) -> None:
    """Import the module that was `found`, as Python's own import does."""
    sys.modules[name] = module_from_spec(found)
    try:
        loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise
