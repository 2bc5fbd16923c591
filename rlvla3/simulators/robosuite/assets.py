"""Where RoboCasa's kitchens and objects are (robosuite's own come with it), and that nobody is asked for them."""

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
"""The module that says where they are, and is asked while the rest of RoboCasa is imported."""


def robocasa_assets(robocasa: Path, given: Path | None) -> Path:
    """The folder of RoboCasa's assets. robocasa: where it is installed. given: the recipe's path. Raises RecipeError where they are nowhere.

    They are not on the hub: RoboCasa's own script gets them, and asks before it does.
    """
    return find_assets(
        "RoboCasa (which `python -m robocasa.scripts.download_kitchen_assets` puts into its own folder)",
        key="simulator.options.assets",
        given=given,
        variable=VARIABLE,
        own=[robocasa / "models" / "assets"],
        contains="textures",
    )


def use_robocasa_assets(assets: Path) -> None:
    """Have RoboCasa read `assets`; it must not have been imported yet. Raises SimulatorError where it was, with others."""
    imported = sys.modules.get(MODELS)
    if imported is None:
        sys.meta_path.insert(0, _ModelsFinder(assets))
    elif Path(imported.assets_root) != assets:
        raise SimulatorError(
            f"RoboCasa already reads its assets in {imported.assets_root}, and cannot read {assets} too: give each folder a process of its own"
        )


class _ModelsFinder(MetaPathFinder):
    """Finds RoboCasa's `models`, which then says that the assets are elsewhere than in the package."""

    def __init__(self, assets: Path) -> None:
        self._assets = assets

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == MODELS else None
        if spec is not None and spec.origin is not None:
            spec.loader = _ModelsLoader(name, spec.origin, self._assets)
        return spec


class _ModelsLoader(SourceFileLoader):
    def __init__(self, name: str, path: str, assets: Path) -> None:
        super().__init__(name, path)
        self._assets = assets

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        module.assets_root = str(self._assets)  # type: ignore[attr-defined]


@contextmanager
def nobody_to_ask() -> Iterator[None]:
    """A question on standard input fails with EOFError instead of waiting for an answer."""
    asked = sys.stdin
    with Path(os.devnull).open() as nobody:
        sys.stdin = nobody
        try:
            yield
        finally:
            sys.stdin = asked
