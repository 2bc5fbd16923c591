"""Where a simulator's meshes and textures are.

They are looked for in this order: the recipe's path, an environment variable, the folders of the package. Nothing is downloaded, and nobody is asked on
standard input.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rlvla3.errors import RecipeError


def find_assets(
    owner: str,
    *,
    key: str,
    given: Path | None,
    variable: str,
    package_folders: Sequence[Path],
    contains: str,
    way_out: str = "",
) -> Path:
    """The folder that holds a simulator's assets.

    owner: the simulator, for messages. key: the setting in the recipe; given: its value. variable: the environment variable.
    package_folders: where the simulator's package may have put its assets. contains: a file or folder that is in every folder of assets.
    way_out: how to get them, a sentence without full stop.
    Raises RecipeError if no place has them; the message names every place. Raises it too if the recipe or the variable names a folder without them.
    """
    named = [(key, given), (f"the environment variable {variable}", Path(os.environ[variable]) if os.environ.get(variable) else None)]
    for name, folder in named:
        if folder is not None:
            if (folder / contains).exists():
                return folder
            raise RecipeError(f"{name} is {folder}, but the assets of {owner} are not there: it must hold {contains}")
    for folder in package_folders:
        if (folder / contains).exists():
            return folder
    places = ", ".join(map(str, package_folders)) or "none"
    raise RecipeError(
        f"the assets of {owner} are not on this machine: {key} is not set, the environment variable {variable} is not set, the package has none "
        f"(looked in {places}). Set {key} or {variable} to a folder that holds {contains}{way_out and '. ' + way_out}"
    )
