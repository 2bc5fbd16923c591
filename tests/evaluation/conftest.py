"""A run directory for tests of what is shown of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvla3.observability.run_directory import RunDirectory
from tests.support.events import RECIPE


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", RECIPE)
