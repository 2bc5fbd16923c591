"""Whether the names that come with a run directory, a checkpoint or a policy folder may be loaded. Every command asks here, before it reads one.

Invariant: a recipe that the user names is trusted, as a program is that they start. A recipe that lies in a run directory, and a policy that lies in a folder,
are data. Names in them that are no part of rlvla3 are loaded only where this user has signed them (code_names.py), has just given them as settings, or says
`--trust`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvla3.config import Overrides, Recipe, load_recipe
from rlvla3.config.yaml_text import BYTES
from rlvla3.errors import RecipeError
from rlvla3.metadata import read_json, shown
from rlvla3.named import search_working_folder
from rlvla3.observability.code_names import code_names, is_signed
from rlvla3.observability.run_directory import RunDirectory, RunDirectoryError, find_run

SHOWN = 12
"""How many names a message shows."""

OF_A_RUN = ("checkpoints", "metrics.jsonl", "summary.json", "record", "evaluations", "replays")
"""A folder that has config.yaml and one of these is a run directory, also where the command names its config.yaml."""


def check_trust(path: Path, overrides: Overrides = (), trust: bool = False) -> None:
    """Raise RunDirectoryError where `path` is somebody else's run directory, or a part of it, or a policy folder, and names code that is no part of rlvla3.

    path: what a command starts from. A recipe, or something that is not there, is left to the command. overrides: settings that win over the file's.
    trust: whether the user has said that all of it may be loaded.
    """
    path = path.absolute()
    run = _run_of(path)
    if run is None and path.is_file():
        _accept(load_recipe(path, overrides))
        return
    signed: dict[str, Any] = {}
    if run is not None:
        signed |= _check_recipe(run.config, overrides, trust)
        recorded = run.record / "recipe.yaml"
        if recorded.is_file() and (path == recorded or _is_recipe(recorded)):
            signed |= _check_recipe(recorded, overrides, trust)
    for folder in (path, path / "policy", *([] if run is None else [checkpoint / "policy" for checkpoint in run.all_checkpoints()])):
        name = _policy_name(folder)
        if ":" in name and not trust and signed.get("policy.name") != name:
            raise RunDirectoryError(_refusal(folder / "config.json", {"policy": name}))
    if trust:
        search_working_folder()


def _run_of(path: Path) -> RunDirectory | None:
    """The run that `path` is, or that it is a part of: a checkpoint, the policy folder of one, its config.yaml, the recipe of its record."""
    if path.is_dir() and (found := find_run(path.parent if path.name == "policy" else path)):
        return found[0]
    for folder in (path.parent, path.parent.parent):
        if path in ((run := RunDirectory(folder)).config, run.record / "recipe.yaml") and any((folder / part).exists() for part in OF_A_RUN):
            return run
    return None


def _check_recipe(file: Path, overrides: Overrides, trust: bool) -> dict[str, Any]:
    """Returns the names of the recipe in `file` that may be loaded. Raises RunDirectoryError for others."""
    recipe = load_recipe(file, overrides)
    names = code_names(recipe)
    if not names:
        return {}
    try:
        own = code_names(load_recipe(file))
    except RecipeError:  # the settings mend it: what it says alone is not known, and so not signed
        own = names
    with file.open(encoding="utf-8", errors="replace") as opened:
        text = opened.read(BYTES)
    others = {setting: value for setting, value in names.items() if own.get(setting) == value}
    if others and not trust and not is_signed(text, own):
        raise RunDirectoryError(_refusal(file, others))
    _accept(recipe)
    return names


def _is_recipe(file: Path) -> bool:
    """Whether the recipe of a record can be read. What cannot be read names nothing, and does not stop commands that do not need it."""
    try:
        load_recipe(file)
    except RecipeError:
        return False
    return True


def _accept(recipe: Recipe) -> None:
    if code_names(recipe):
        search_working_folder()


def _policy_name(folder: Path) -> str:
    """The name of the policy that rlvla3 saved in `folder`. Empty where there is none."""
    if not (folder / "config.json").is_file():
        return ""
    try:
        described = read_json(folder / "config.json", "")
    except RecipeError:  # whoever needs the policy says what is wrong with it
        return ""
    return str(described.get("policy", "")) if isinstance(described, dict) else ""


def _refusal(file: Path, names: Mapping[str, Any]) -> str:
    lines = [f"  {setting}: {shown(value)}" for setting, value in list(names.items())[:SHOWN]]
    more = [f"  ... and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return "\n".join(
        [
            f"{file} names code that is no part of rlvla3, and this user has not signed it. It came from somebody else, or was changed. Nothing of it was run:",
            *lines,
            *more,
            "If you know this code, add --trust (in Python: trust=True)",
        ]
    )
