"""Named numpy arrays in shared memory that has no name in any file system.

Invariant: the memory lives exactly as long as some process has it open. Nothing is registered, so nothing can be left behind, however a process ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.types import Layout

ALIGNMENT = 64
"""Arrays start on cache lines: two processes that write neighbouring arrays do not slow each other down."""


class NamelessFile:
    """Memory as an open file without a name. It can be handed to spawned processes as an argument, and its size may be settled later."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _open_nameless() if fd is None else fd

    def map(self, size: int) -> mmap.mmap:
        """The first `size` bytes, zeros where never written."""
        if os.fstat(self.fd).st_size < size:
            os.ftruncate(self.fd, size)
        return mmap.mmap(self.fd, size)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_in_child, (DupFd(self.fd),)

    def __del__(self) -> None:
        # Only the descriptor: a mapping goes when the last array that looks into it does.
        if hasattr(self, "fd"):
            os.close(self.fd)


class SharedArrays(Mapping[str, NDArray[Any]]):
    """Arrays by name, the same memory in every process they are handed to as an argument at its start."""

    def __init__(self, layout: Layout, file: NamelessFile | None = None) -> None:
        self._layout = dict(layout)
        self._file = file or NamelessFile()
        counts = [int(np.prod(field.shape, dtype=np.int64)) for field in self._layout.values()]
        sizes = [count * np.dtype(field.dtype).itemsize for count, field in zip(counts, self._layout.values(), strict=True)]
        starts = np.cumsum([0, *(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)])
        memory = self._file.map(int(starts[-1]) + ALIGNMENT)  # the last array may be empty, and even so must start inside
        self._arrays = {
            name: np.frombuffer(memory, field.dtype, count, int(start)).reshape(field.shape)
            for (name, field), count, start in zip(self._layout.items(), counts, starts, strict=False)
        }

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedArrays, (self._layout, self._file)


def _open_nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("rlvla3")
    with tempfile.TemporaryFile() as file:  # not Linux: an unlinked temporary file behaves alike
        return os.dup(file.fileno())


def _open_in_child(handle: Any) -> NamelessFile:
    return NamelessFile(handle.detach())
