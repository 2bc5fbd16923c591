"""The tests that need a GPU, run by pytest in a process of its own. Results are read as they come, so that a test that hangs hides no other result."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from rlvla3.benchmarks.gpu.sheet import Sheet

RESULT = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
"""A line of `pytest -v`: the test and how it ended."""

COLLECTING = re.compile(r"^_+ ERROR collecting (\S+) _+$")
"""The head of pytest's report on a file that cannot be imported, for instance because a package is missing. The tests of other files run all the same."""

REASON = re.compile(r"^SKIPPED \[\d+\] \S+ (.*)$")
"""A line of pytest's summary: why tests were skipped."""


def measure(sheet: Sheet) -> None:
    """Run the tests with the mark `gpu`, if the folder with the tests is there."""
    folder = Path(__file__).parents[3] / "tests"
    if not (folder / "conftest.py").is_file():
        sheet.skip("all tests", f"there is no folder {folder}: the tests come with the repository, not with the package")
        return
    if find_spec("pytest") is None:
        sheet.skip("all tests", "pytest is not installed")
        return
    # A machine with a GPU may lack packages. So only files with such tests are read, and the repository's own options of pytest are left out.
    files = sorted(str(file) for file in folder.rglob("test_*.py") if "mark.gpu" in file.read_text())
    options = ["-m", "gpu", "-v", "-rs", "--color=no", "--continue-on-collection-errors", "-o", "addopts=", "-p", "no:cacheprovider"]
    words = [sys.executable, "-m", "pytest", *options, *files]
    with subprocess.Popen(words, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as tests:
        assert tests.stdout is not None
        for outcome in outcomes(tests.stdout):
            sheet.write(**outcome)
        status = tests.wait()
    sheet.write(exit_status=status)


def outcomes(lines: Iterable[str]) -> Iterator[dict[str, object]]:
    """From the lines of `pytest -v`: after each test the number of tests by outcome, and which have failed. At the end why tests were skipped.

    A file that cannot be imported counts as one error.
    """
    counts: Counter[str] = Counter()
    failed: list[str] = []
    reasons: list[str] = []
    for line in lines:
        if found := RESULT.match(line):
            test, outcome = found.groups()
            counts[outcome.lower()] += 1
            if outcome in ("FAILED", "ERROR"):
                failed.append(test)
            yield {"tests": dict(counts), "failed": list(failed)}
        elif found := COLLECTING.match(line):
            counts["error"] += 1
            failed.append(found[1])
            yield {"tests": dict(counts), "failed": list(failed)}
        elif (reason := REASON.match(line)) and reason[1] not in reasons:
            reasons.append(reason[1])
    yield {"tests": dict(counts), "failed": failed, "reasons": reasons}
