"""Settings of all tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.support.runs import is_guard, traces, until_guards_ended

HERE = Path(__file__).parent

if find_spec("hypothesis"):  # `rlvla3 bench gpu` runs the tests of a GPU on machines without it
    from hypothesis import settings

    # No test is about time: a slow machine is not a defect.
    settings.register_profile("rlvla3", deadline=None)
    settings.load_profile("rlvla3")

LONGEST = (
    "runtimes/test_local",
    "runtimes/ray/test_runs",
    "training/test_ranks",
    "runtimes/test_replay",
    "test_errors",
    "planning/papers/test_papers",
    "benchmarks/test_parity",
    "checking/test_check",
    "runtimes/test_offload",
    "planning/profiling/test_profiling",
)
"""Files that take a minute and more, the longest first. They begin first, so that no worker is left with one when the others have ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((place for place, name in enumerate(LONGEST) if item.path == HERE / f"{name}.py"), len(LONGEST)))


@pytest.fixture
def no_run_outlives_its_test() -> Iterator[None]:
    yield
    for child in psutil.Process().children(recursive=True):
        if not is_guard(child):  # those of this process are needed by later tests
            child.kill()


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process of ours, no shared memory and no temporary file may outlive a test, whose runs have a folder of their own for these."""
    with tempfile.TemporaryDirectory() as scratch:  # its path is short, as those of sockets have to be
        monkeypatch.setenv("TMPDIR", scratch)
        before = traces(Path(scratch))
        yield
        until_guards_ended()
        assert traces(Path(scratch)) <= before
