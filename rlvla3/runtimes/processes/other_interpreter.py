"""A worker process in another interpreter than this one. multiprocessing can start its children only in one that is like its own.

Invariants:
- the child gets what multiprocessing would give it: the same arguments, shared memory, doorbells and pipes. Descriptors keep their numbers;
- its arguments stand in a file without a name. So the parent never waits for a child that does not read.
"""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import set_spawning_popen
from multiprocessing.popen_spawn_posix import Popen, _DupFd
from typing import Any, cast

from rlvla3.interpreters.interpreter import program
from rlvla3.runtimes.processes.plain_pickle import dumps
from rlvla3.shared_memory import NamelessFile


class OtherProcess:
    """A process in the interpreter `python` that calls function(*arguments), with the part of multiprocessing's interface that supervisors use.

    Raises RecipeError where the interpreter is none.
    """

    def __init__(self, python: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._python, self._call = python, (function, arguments)
        self._started: subprocess.Popen[bytes] | None = None
        self.sentinel = -1

    def start(self) -> None:
        passed, content = _Passed(), NamelessFile()
        set_spawning_popen(cast(Popen, passed))  # what can be shared asks for it while it is pickled
        try:
            pickled = dumps(self._call)
        finally:
            set_spawning_popen(None)
        os.write(content.fd, pickled)
        self.sentinel, theirs = os.pipe()
        command, variables = program(self._python, f"{__name__}:run", content.fd)
        try:
            self._started = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[*passed.descriptors, content.fd, theirs], env=variables)
        finally:
            os.close(theirs)
        del self._call

    @property
    def pid(self) -> int | None:
        return None if self._started is None else self._started.pid

    @property
    def exitcode(self) -> int | None:
        return None if self._started is None else self._started.poll()

    def is_alive(self) -> bool:
        return self._started is not None and self._started.poll() is None

    def kill(self) -> None:
        assert self._started is not None
        self._started.kill()

    def join(self, timeout: float | None = None) -> None:
        assert self._started is not None
        with suppress(subprocess.TimeoutExpired):
            self._started.wait(timeout)

    def __del__(self) -> None:
        if self.sentinel >= 0:
            os.close(self.sentinel)


class _Passed:
    """Stands where multiprocessing has the child that it is about to start. descriptors: that the child is to inherit."""

    DupFd = _DupFd

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def duplicate_for_child(self, descriptor: int) -> int:
        self.descriptors.append(descriptor)
        return descriptor


def run(descriptor: int) -> None:
    """The child's side: read what is to be called from the file `descriptor`, and call it."""
    with open(descriptor, "rb") as file:  # it has no path
        file.seek(0)
        function, arguments = pickle.load(file)
    function(*arguments)
