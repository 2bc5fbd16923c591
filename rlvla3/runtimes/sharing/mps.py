"""Whether NVIDIA's Multi-Process Service (MPS) is there. With it, a GPU runs kernels of several processes at once; without it, they have it in turn.

Nothing has to be done to use it: a process asks the daemon when it first uses CUDA. CUDA_MPS_ACTIVE_THREAD_PERCENTAGE, which limits how much of a GPU a process
may use, is the user's. MPS documentation: the daemon and its clients meet in the folder CUDA_MPS_PIPE_DIRECTORY, by default /tmp/nvidia-mps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

PIPES, DEFAULT_PIPES = "CUDA_MPS_PIPE_DIRECTORY", Path("/tmp/nvidia-mps")
PROGRAMS = "nvidia-cuda-mps"
"""The daemon's name begins so, and that of the server which it starts. Linux may show only these 15 letters."""


def mps_folder(environment: Mapping[str, str] | None = None, processes: Iterable[str] | None = None) -> Path | None:
    """The folder in which processes of this environment meet an MPS control daemon. None if there is no daemon.

    environment: None means this process's own. processes: the names of running processes. None means those of this machine.
    """
    folder = Path((os.environ if environment is None else environment).get(PIPES) or DEFAULT_PIPES)
    if not (folder / "control").exists():
        return None
    if folder.is_mount():
        return folder  # this is a container, and the daemon that the folder comes from is not seen here
    names = (process.info["name"] or "" for process in psutil.process_iter(["name"])) if processes is None else processes
    return folder if any(name.startswith(PROGRAMS) for name in names) else None


def mps_in_words() -> str:
    """How a GPU serves several processes here."""
    folder = mps_folder()
    return f"at once, by the MPS daemon of {folder}" if folder else "in turn (no MPS daemon is running)"
