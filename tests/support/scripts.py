"""Python programs as users write and start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from tests.support.repository import python_path
from tests.support.runs import LIMIT_S, MARK


def environment() -> dict[str, str]:
    """Of a program that finds rlvla3 and the tests' simulators, and whose processes are known for this test session's."""
    plain = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    return plain | {"PYTHONPATH": python_path(), MARK: str(os.getpid())}


def script(folder: Path, *parts: str) -> subprocess.CompletedProcess[str]:
    """What came of `python script.py` in `folder`, where the script consists of `parts`."""
    (folder / "script.py").write_text("".join(map(dedent, parts)))
    return subprocess.run([sys.executable, "script.py"], cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=2 * LIMIT_S)
