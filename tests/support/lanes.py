"""Bodies of lanes. Without torch: a process that imports this starts soon. path: a file that each of them writes a line to when something happens to it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.processes.messages import Ready
from tests.support.failing import raise_this


def _note(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


async def stay(control: Control, name: str, path: Path) -> None:
    """Is built slowly, answers every message with the name of its thread, and notes when it begins, is built and ends."""
    _note(path, f"{name} begins")
    await asyncio.sleep(0.1)
    _note(path, f"{name} is built")
    control.send(Ready())
    try:
        while True:
            await control.receive()
            control.send(threading.current_thread().name)
    finally:
        _note(path, f"{name} ends")


async def look_at(control: Control, name: str, path: Path, given: object) -> None:
    """Says which object it was given."""
    control.send(Ready())
    control.send(id(given))
    await control.receive()


async def fail_when_told(control: Control, name: str, path: Path) -> None:
    control.send(Ready())
    await control.receive()
    raise_this(RuntimeError(f"{name} was told to fail"))


async def fail_at_once(control: Control, *_: Any) -> None:
    raise_this(RuntimeError("it cannot be built"))
