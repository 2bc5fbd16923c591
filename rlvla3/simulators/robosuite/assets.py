"""Where RoboCasa's kitchens and objects are, and how it is kept from asking for them on standard input. robosuite's own assets come with its package."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

from rlvla3.simulators.assets import find_assets
from rlvla3.simulators.base import SimulatorError

VARIABLE = "RLVLA3_ROBOCASA_ASSETS"

MODELS = "robocasa.models"
"""The module that says where the assets are. The rest of RoboCasa reads this when it is imported."""


def robocasa_assets(robocasa: Path, given: Path | None) -> Path:
    """The folder of RoboCasa's assets. robocasa: the folder it is installed in. given: the recipe's path. Raises RecipeError if the assets are nowhere.

    The assets are not on the hub. RoboCasa's own script downloads them, and it asks before it does.
    """
    return find_assets(
        "RoboCasa (which `python -m robocasa.scripts.download_kitchen_assets` puts into its own folder)",
        key="simulator.options.assets",
        given=given,
        variable=VARIABLE,
        package_folders=[robocasa / "models" / "assets"],
        contains="textures",
    )


def use_robocasa_assets(assets: Path) -> None:
    """Make RoboCasa read `assets` when it is imported. Raises SimulatorError if it was already imported with another folder."""
    imported = sys.modules.get(MODELS)
    if imported is None:
        sys.meta_path.insert(0, _ModelsFinder(assets))
    elif Path(imported.assets_root) != assets:
        raise SimulatorError(f"RoboCasa already reads its assets in {imported.assets_root} and cannot read {assets} too: give each folder a process of its own")


class _ModelsFinder(MetaPathFinder):
    """Finds RoboCasa's module `models` and has it loaded with another folder of assets."""

    def __init__(self, assets: Path) -> None:
        self._assets = assets

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == MODELS else None
        if spec is not None and spec.origin is not None:
            spec.loader = _ModelsLoader(name, spec.origin, self._assets)
        return spec


class _ModelsLoader(SourceFileLoader):
    """Loads RoboCasa's module `models`, then sets its folder of assets."""

    def __init__(self, name: str, path: str, assets: Path) -> None:
        super().__init__(name, path)
        self._assets = assets

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        module.assets_root = str(self._assets)  # type: ignore[attr-defined]


@contextmanager
def without_standard_input() -> Iterator[None]:
    """Within this context, a question on standard input raises EOFError instead of waiting for an answer."""
    before = sys.stdin
    with Path(os.devnull).open() as empty:
        sys.stdin = empty
        try:
            yield
        finally:
            sys.stdin = before
