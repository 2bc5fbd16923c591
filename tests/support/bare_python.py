"""An interpreter that has what a simulator's process needs, and nothing else: an environment without pip, whose packages are links. And workers for it."""

from __future__ import annotations

import importlib.util
import os
import sys
import venv
from pathlib import Path
from typing import Any

from rlvla3.runtimes.processes.control import Control

PACKAGES = ("numpy", "pydantic", "pydantic_core", "psutil", "annotated_types", "typing_extensions", "typing_inspection")
"""numpy, pydantic and psutil, and what pydantic needs."""


def bare_python(folder: Path) -> Path:
    """Make the environment in `folder`. Returns its folder."""
    venv.create(folder, symlinks=True)
    (packages,) = (folder / "lib").glob("python3.*/site-packages")
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        origin = Path(spec.origin)
        there = origin.parent if origin.name == "__init__.py" else origin
        (packages / there.name).symlink_to(there)
        if (libraries := there.with_name(f"{there.name}.libs")).is_dir():
            (packages / libraries.name).symlink_to(libraries)
    return folder


async def tell(control: Control, value: Any) -> None:
    """The body of a worker: what it is, and what it was given."""
    control.send((sys.prefix, os.getppid(), os.getsid(0) == os.getpid(), os.environ.get("PYTHONSAFEPATH"), value))
    await control.receive()


async def fail(control: Control) -> None:
    """The body of a worker that fails."""
    raise KeyError("lost")
