"""Lines of a file that another process appends to. Only what is new is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rlvla3.metadata import LONGEST_LINE

Found = TypeVar("Found")

PART = 256 << 10
"""Bytes that are read at once."""


@dataclass(frozen=True, slots=True)
class NewLines:
    """lines: whole ones, without their ends. anew: the file was replaced or cut, and these begin it again. left: bytes that are not read yet."""

    lines: list[bytes]
    anew: bool
    left: int


class AppendedLines:
    """The lines of the file at `path`. A missing file has none, and so has anything that is no file: a pipe is not opened.

    offset: how many bytes are read.

    Invariant: memory is bounded. A line of more than LONGEST_LINE bytes is left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self.offset, self._begun, self._skips = 0, b"", False

    def read(self, most: int = PART) -> NewLines:
        """The next whole lines of at most `most` bytes. Raises OSError where the file cannot be read."""
        found, anew, left = _with_file(self._path, lambda file, about: self._read(file, about, most)) or ([], False, 0)
        return NewLines(found, anew, left)

    def _read(self, file: int, about: os.stat_result, most: int) -> tuple[list[bytes], bool, int]:
        identity = (about.st_dev, about.st_ino)
        anew = identity != self._identity or about.st_size < self.offset
        if anew:
            first, self._identity = self._identity is None, identity
            self.offset, self._begun, self._skips = 0, b"", False
            anew = not first
        content = os.pread(file, most, self.offset)
        self.offset += len(content)
        *lines, rest = (self._begun + content).split(b"\n")
        if self._skips and lines:
            lines, self._skips = lines[1:], False
        self._begun = rest
        if len(rest) > LONGEST_LINE:
            self._begun, self._skips = b"", True
        return lines, anew, max(about.st_size - self.offset, 0)


def lines_here_and_there(path: Path, places: int, of: int) -> list[bytes]:
    """Whole lines around `places` places that are spread evenly over the file, in their order. of: bytes that are read at each place. The first place is the
    beginning, and the last one the end, so a look at a long file takes a moment. Raises OSError where it cannot be read."""

    def look(file: int, about: os.stat_result) -> list[bytes]:
        found: list[bytes] = []
        after = 0
        for place in range(places):
            begin = max((about.st_size - of) * place // max(places - 1, 1), after)
            content = os.pread(file, of, begin)
            lines = content.split(b"\n")
            found += lines[1 if begin > 0 else 0 : -1]
            after = begin + len(content) - len(lines[-1])
        return found

    return _with_file(path, look) or []


def tail(path: Path, most: int, entry: int = 1) -> bytes:
    """The last bytes of a file, at most `most`, from the beginning of an entry on. entry: bytes of each; `most` is a multiple of it. Empty where there is no
    file. Raises OSError where it cannot be read."""
    return _with_file(path, lambda file, about: os.pread(file, most, -(-max(about.st_size - most, 0) // entry) * entry)) or b""


def head(path: Path, most: int) -> bytes:
    """The first bytes of a file, at most `most`. Empty where there is no file. Raises OSError where it cannot be read."""
    return _with_file(path, lambda file, _: os.pread(file, most, 0)) or b""


def _with_file(path: Path, read: Callable[[int, os.stat_result], Found]) -> Found | None:
    """What `read` makes of the open file. None where there is no regular file. Whoever opens a pipe may wait for ever."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        about = os.fstat(file)
        return read(file, about) if stat.S_ISREG(about.st_mode) else None
    finally:
        os.close(file)
