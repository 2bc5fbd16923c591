"""`rlvla3 replay`, as a user would start it, and whether it comes to the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.repository import python_path
from tests.support.runs import LIMIT_S, MARK


def replayed(start: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`rlvla3 replay`, as a user would start it."""
    return subprocess.run(
        [sys.executable, "-m", "rlvla3", "replay", str(start), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
        env=os.environ | {"PYTHONPATH": python_path(), MARK: str(os.getpid())},
    )


def assert_same(start: Path, updates: int, *options: str) -> None:
    ran = replayed(start, *options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"replayed {updates} updates: the weights are those of {start}" in ran.stdout
    assert "bit for bit" in ran.stdout
