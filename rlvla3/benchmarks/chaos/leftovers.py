"""What a run must not leave behind: processes, shared memory, temporary files, files that are not complete."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path

import psutil

from rlvla3.benchmarks.chaos.observed_run import ObservedRun, kill

SHARED_MEMORY = Path("/dev/shm")

PATIENCE_S = 5.0
"""How long processes may take to end after the coordinator has ended."""


def shared_blocks() -> frozenset[Path]:
    """The named blocks of shared memory on this machine that belong to this user."""
    return frozenset(_own(SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else frozenset()


def leftovers(run: ObservedRun, before: Set[Path], graceful: bool) -> list[str]:
    """What a run that has ended has left, in words. before: the blocks of shared memory from before it began. graceful: it was not killed.

    Processes that are left are killed, so that they disturb nothing else.
    """
    _, orphans = psutil.wait_procs(run.processes(), timeout=PATIENCE_S)
    names = [f"process {process.pid} {_name(process)} is left" for process in orphans]
    kill(orphans)
    blocks = [f"shared memory {path} is left" for path in sorted(shared_blocks() - before) if not _in_use(path)]
    torch_makes = run.scratch / f"torchinductor_{getpass.getuser()}"  # whether it compiles anything or not
    files = [f"temporary file {path.name} is left" for path in run.scratch.iterdir() if path != torch_makes]
    parts = [path for path in run.path.rglob(".*") if path.name.startswith((".partial.", ".replaced."))] if graceful else []
    return names + blocks + files + [f"{path.relative_to(run.path)} is left" for path in parts]


def _own(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_uid == os.getuid():
                yield path


def _in_use(path: Path) -> bool:
    """Whether a living process has the block open or mapped: then it belongs to another program."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(path) in (process / "maps").read_text() or any(file.readlink() == path for file in (process / "fd").iterdir()):
                return True
    return not path.exists()


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return process.name()
    return ""
