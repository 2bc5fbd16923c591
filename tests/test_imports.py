"""No file imports, by whatever way, a file that imports it; and a package has every name that it offers.

`make lint` checks the floors and cycles between packages (pyproject.toml, importlinter). What it does not see are cycles through a package's `__init__.py`.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import grimp
import pytest

import rlvla3


def test_no_file_is_in_a_cycle_of_imports() -> None:
    graph = grimp.build_graph("rlvla3", cache_dir=None)
    try:
        TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()
    except CycleError as error:
        # Each imports the next; the first is repeated at the end.
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_every_name_that_a_package_offers_is_there() -> None:
    """A name in `__all__` that is missing breaks `from package import *`."""
    root = Path(rlvla3.__file__).parent
    offering = [path.parent for path in sorted(root.rglob("__init__.py")) if any(_offers(node) for node in ast.parse(path.read_text()).body)]
    names = [".".join(folder.relative_to(root.parent).parts) for folder in offering]
    assert "rlvla3.config" in names
    missing = [f"{name}.{offered}" for name in names for offered in import_module(name).__all__ if not hasattr(import_module(name), offered)]
    assert not missing


def _offers(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
