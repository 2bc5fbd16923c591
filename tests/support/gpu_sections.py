"""Sections of `rlvla3 bench gpu` that behave and misbehave."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from rlvla3.benchmarks.gpu.sections import Section
from rlvla3.benchmarks.gpu.sheet import Sheet
from rlvla3.benchmarks.gpu.sizes import Sizes
from tests.support.failing import raise_this


def machine(sheet: Sheet) -> None:
    sheet.write(gpu={"name": None})


def quick(sheet: Sheet) -> None:
    sheet.write("a", 1, ms=2.0)
    sheet.write("a", 2, ms=3.0)
    sheet.skip("something", "no GPU")


def endless(sheet: Sheet) -> None:
    """It starts a process of its own, as a run does, and never ends."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    sheet.write(child=child.pid)
    time.sleep(600)


def failing(sheet: Sheet) -> None:
    sheet.write(before=1)
    raise_this(ZeroDivisionError("of all things"))


def crashing(sheet: Sheet) -> None:
    sheet.write(before=1)
    os._exit(3)


def looking_back(sheet: Sheet) -> None:
    sheet.write(seen=sheet.earlier["quick"]["a"])


def section(name: str, importance: int = 1, weight: float = 1, least_s: float = 1) -> Section:
    return Section(name, name, importance, weight, least_s, f"{__name__}:{name}")


class Silent:
    """A reader that prints nothing."""

    def begins(self, section: Section, seconds: float) -> None:
        pass

    def ended(self, section: Section, result: Mapping[str, Any], sizes: Sizes) -> None:
        pass
