"""No file imports, by whatever way, a file that imports it. `make lint` checks the floors and cycles between packages (pyproject.toml, importlinter); what it
does not see are cycles through a package's `__init__.py`."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest


def test_no_file_is_in_a_cycle_of_imports() -> None:
    graph = grimp.build_graph("rlvla3", cache_dir=None)
    try:
        TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()
    except CycleError as error:
        # Each imports the next; the first is repeated at the end.
        pytest.fail(" imports ".join(reversed(error.args[1])))
