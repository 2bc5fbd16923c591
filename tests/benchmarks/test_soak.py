"""`rlvla3 bench soak`: what counts as growth, and what it samples."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlvla3.benchmarks.chaos.observed_run import MARK, ObservedRun
from rlvla3.benchmarks.chaos.settings import recipe
from rlvla3.benchmarks.soak import Sample, _kilobytes, growth, report


def of(slope: float, files: int = 0, warm_up: float = 0.0) -> list[Sample]:
    """An hour of samples of a process. slope: kilobytes a minute. files: descriptors that it gets late. warm_up: kilobytes a minute in the first quarter."""
    return [Sample(60.0 * minute, 1000 + slope * minute + warm_up * min(minute, 15), 20 + files * (minute > 50)) for minute in range(60)]


def test_growth_after_the_warm_up_counts_and_before_it_does_not() -> None:
    assert growth("shard 0", of(80.0)).slope == pytest.approx(80.0)
    assert growth("shard 0", of(0.0, warm_up=500.0)).slope == pytest.approx(0.0, abs=1e-6)
    assert [growth("shard 0", of(slope, files)).is_flat for slope, files in ((10.0, 0), (60.0, 0), (10.0, 1))] == [True, False, False]


def test_the_report_names_who_grows() -> None:
    lines = list(report([growth("coordinator", of(0.0)), growth("trainer", of(90.0))], minutes=60.0, updates=6000))
    assert lines[0].startswith("60 minutes, 6,000 updates")
    assert "GROWS" not in lines[2] and lines[3].endswith("GROWS")
    assert lines[3].split()[:4] == ["trainer", "6.3", "90.0", "900.0"]


def test_memory_of_its_own_is_measured(tmp_path: Path) -> None:
    program = "import sys; block = bytearray(50_000_000); print('there', flush=True); sys.stdin.read()"
    mark = f"soak-{os.getpid()}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], env=os.environ | {MARK: mark}, **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        (found,) = ObservedRun(tmp_path, mark, recipe("sync")).processes()
        assert 50_000 < _kilobytes(found) < 80_000
        process.stdin.close()
