"""LIBERO as its tests use it, where it is installed."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from rlvla3.config import SimulatorConfig
from rlvla3.simulators.libero import assets
from rlvla3.types import Ticket

# Found, not imported: robosuite would choose its graphics library here and now.
installed = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("libero", "robosuite")), reason="libero and robosuite are not installed"
)


def assets_folder() -> str:
    """Where this machine has LIBERO's assets: as the variable says, or in a folder beside the repository; empty where it has none."""
    beside = (folder / "shared" / "libero-assets" for folder in Path(__file__).resolve().parents)
    return os.environ.get(assets.VARIABLE) or next((str(folder) for folder in beside if folder.exists()), "")


ASSETS = assets_folder()


with_assets = pytest.mark.skipif(not ASSETS, reason=f"LIBERO's assets are not on this machine: {assets.VARIABLE} is not set")


def config(*tasks: str, max_steps: int | None = None, slots: int = 1, **options: Any) -> SimulatorConfig:
    return SimulatorConfig(name="libero", tasks=list(tasks), max_steps=max_steps, slots=slots, options=({"assets": ASSETS} if ASSETS else {}) | options)


def ticket(task: str, state: int, seed: int = 0) -> Ticket:
    return Ticket(index=0, task=task, seed=seed, group=0, initial_state=state)
