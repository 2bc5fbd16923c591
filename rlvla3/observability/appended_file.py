"""Files that grow by whole entries, whatever happens to the disk or to the file while a run goes on."""

from __future__ import annotations

import errno
import os
from collections import deque
from pathlib import Path

MOST_UNWRITTEN = 10_000
"""Entries that wait for a disk that is full. Older ones are dropped, so that memory stays bounded."""


class AppendedFile:
    """A file that entries are appended to, each as soon as it is there. head: what a new file begins with.

    Invariants:
    - an entry is in the file whole or not at all: what a full disk has cut off is taken back;
    - an entry that could not be written waits, and is written before the next one;
    - a file that was removed or replaced under way is begun again, in a folder that is made again;
    - a pipe or a device in its place is refused: a pipe that nobody reads would be waited for without end.
    """

    def __init__(self, path: Path, head: bytes = b"") -> None:
        self._path, self._head = path, head
        self._descriptor: int | None = None
        self._unwritten: deque[bytes] = deque(maxlen=MOST_UNWRITTEN)

    def append(self, entry: bytes) -> None:
        """Append `entry`, after those that wait. Raises OSError where they cannot be written; then `entry` waits too."""
        self._unwritten.append(entry)
        self.write_waiting()

    def write_waiting(self) -> None:
        """Write the entries that wait. Raises OSError where they cannot be written."""
        while self._unwritten:
            descriptor = self._opened()
            if self._head and os.fstat(descriptor).st_size == 0:
                self._write(descriptor, self._head)
            self._write(descriptor, self._unwritten[0])
            self._unwritten.popleft()

    def close(self) -> None:
        """Write the entries that wait, a last time. Raises OSError where they cannot be written."""
        try:
            self.write_waiting()
        finally:
            self._let_go()

    def _opened(self) -> int:
        if self._descriptor is not None and not self._is_there(self._descriptor):
            self._let_go()
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and not (self._path.is_file() or self._path.is_dir()):
                raise OSError(errno.EINVAL, "it is a device or a pipe, and no file", str(self._path))
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        return self._descriptor

    def _is_there(self, descriptor: int) -> bool:
        """Whether the open file still has its name."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except OSError:
            return False

    def _write(self, descriptor: int, entry: bytes) -> None:
        end, written = os.fstat(descriptor).st_size, 0
        try:
            while written < len(entry):
                written += os.write(descriptor, entry[written:])
        except OSError as error:
            if written:
                os.ftruncate(descriptor, end)
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
