"""The log of a worker: code that prints goes on, whatever the disk does."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlvla3.runtimes.processes.process import _Log
from tests.support.repository import python_path

PRINTS = """
import sys
from pathlib import Path
from rlvla3.runtimes.processes.process import _print_to
_print_to(Path(sys.argv[1]))
for number in range(10_000):
    print("a line of a simulator", number)
print("an error of a simulator", file=sys.stderr, flush=True)
raise SystemExit(0)
"""


def test_what_a_full_disk_does_not_take_is_dropped() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    full = os.open("/dev/full", os.O_WRONLY)
    with io.TextIOWrapper(io.BufferedWriter(_Log(full))) as stream:
        for number in range(10_000):
            print("a line", number, file=stream)
            stream.flush()
    os.close(full)


@pytest.mark.parametrize("log", ["run/logs/shard-0.log", "a file/shard-0.log"])
def test_a_worker_prints_into_its_log_or_says_that_it_cannot(tmp_path: Path, log: str) -> None:
    (tmp_path / "a file").touch()
    words = [sys.executable, "-c", PRINTS, str(tmp_path / log)]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": python_path()}, capture_output=True, text=True, check=True, timeout=60)
    if log.startswith("run"):
        assert len((tmp_path / log).read_text().splitlines()) == 10_001 and done.stderr == ""
    else:
        assert "what this worker prints is lost" in done.stderr and done.stderr.count("\n") == 1
