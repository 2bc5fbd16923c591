"""Where a simulator's meshes and textures are.

Looked for in this order: the recipe's path, an environment variable, what the package brought, the hub. Nothing is ever asked on standard input.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rlvla3.errors import RecipeError


def find_assets(
    what: str,
    *,
    key: str,
    given: Path | None,
    variable: str,
    own: Sequence[Path],
    contains: str,
    download: Callable[[], Path] | None = None,
) -> Path:
    """The folder that holds a simulator's assets.

    what: whose they are, for messages. key: the recipe's, with its value `given`. variable: of the environment. own: where the package may have put them.
    contains: a file or folder that is in every such folder. download: gets them from the hub; it may raise OSError.
    Raises RecipeError where they are nowhere, naming every place; and where a place that was named does not hold them.
    """
    named = [(key, given), (f"the environment variable {variable}", Path(os.environ[variable]) if os.environ.get(variable) else None)]
    for name, folder in named:
        if folder is not None:
            if (folder / contains).exists():
                return folder
            raise RecipeError(f"{name} is {folder}, and the assets of {what} are not there: it must hold {contains}")
    for folder in own:
        if (folder / contains).exists():
            return folder
    failed = ""
    if download is not None:
        try:
            return download()
        except OSError as error:
            failed = f"; the hub could not be reached ({type(error).__name__}: {error})"
    places = ", ".join(map(str, own)) or "none"
    raise RecipeError(
        f"the assets of {what} are not on this machine: {key} is not set, the environment variable {variable} is not set, the package has none "
        f"(looked in {places}){failed}. Set {key} or {variable} to a folder that holds {contains}"
    )
