"""Where this repository is, and how the Python programs that tests start find it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def python_path() -> str:
    """PYTHONPATH for a program that a test starts: this repository, then the caller's own path, on which packages may lie that are installed nowhere else."""
    return os.pathsep.join([str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
