"""Named numpy arrays in shared memory. The memory itself has no name in any file system.

Invariant: the memory lives as long as some process has it open. Nothing is registered anywhere, so nothing is left behind, however a process ends.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.types import Layout

NAME = "rlvla3"
"""Of the memory, in lists of the open files of a process. It is no name in a file system."""

ALIGNMENT = 64
"""Arrays begin on cache lines. So two processes that write neighbouring arrays do not slow each other down."""


class NamelessFile:
    """Memory as an open file without a name. It can be an argument of a spawned process, and its size may be set later."""

    def __init__(self, fd: int | None = None, what: str = "") -> None:
        """what: is in it, for `of_process`."""
        self.fd = _open_nameless(what) if fd is None else fd

    def map(self, size: int) -> mmap.mmap:
        """The first `size` bytes, zeros where never written."""
        if os.fstat(self.fd).st_size < size:
            os.ftruncate(self.fd, size)
        return mmap.mmap(self.fd, size)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_in_child, (DupFd(self.fd),)

    def __del__(self) -> None:
        # Closes only the descriptor. A mapping ends with the last array that views it.
        if hasattr(self, "fd"):
            os.close(self.fd)


class SharedArrays(Mapping[str, NDArray[Any]]):
    """Arrays by name. Every process that gets them as an argument at its start sees the same memory."""

    def __init__(self, layout: Layout, file: NamelessFile | None = None, what: str = "") -> None:
        """file: the memory of another process. None makes new memory. what: the arrays are, for `of_process`."""
        self._layout = dict(layout)
        self._file = file or NamelessFile(what=what)
        memory = self._file.map(bytes_of(self._layout))
        self._arrays = {
            name: np.frombuffer(memory, field.dtype, math.prod(field.shape), start).reshape(field.shape)
            for (name, field), start in zip(self._layout.items(), _starts(self._layout), strict=False)
        }

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedArrays, (self._layout, self._file)

    @classmethod
    def of_process(cls, pid: int, layout: Layout, what: str) -> SharedArrays | None:
        """The arrays that a process of this user has under way, on Linux, and which it does not notice. None where it has none of this name and size.

        Whoever looks at them must not write.
        """
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # it was closed meanwhile
                if str(link.readlink()).startswith(f"/memfd:{NAME}-{what} ") and link.stat().st_size == bytes_of(layout):
                    return cls(layout, NamelessFile(os.open(link, os.O_RDWR)))
        return None


def bytes_of(layout: Layout) -> int:
    """Bytes that SharedArrays of `layout` take."""
    return _starts(layout)[-1] + ALIGNMENT  # the last array may be empty, and must begin inside of the memory even then


def _starts(layout: Layout) -> list[int]:
    """Where each array begins, and where the last one ends."""
    sizes = [math.prod(field.shape) * np.dtype(field.dtype).itemsize for field in layout.values()]
    return list(accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0))


def _open_nameless(what: str = "") -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create(f"{NAME}-{what}" if what else NAME)
    with tempfile.TemporaryFile() as file:  # not Linux: an unlinked temporary file behaves in the same way
        return os.dup(file.fileno())


def _open_in_child(handle: Any) -> NamelessFile:
    return NamelessFile(handle.detach())
