"""Environments that do to their process what no environment should. Each is right in all else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlvla3.config import Section, SimulatorConfig
from rlvla3.simulators.base import Simulator
from rlvla3.types import ActionSpace, Spaces
from tests.support.families import SLEEP
from tests.support.troublesome import Countdown


def change_folder() -> None:
    os.chdir("/")


def print_much() -> None:
    print("the environment says " + "much " * 20_000)
    os.system("echo its program says more; echo and complains >&2")


def close_output() -> None:
    sys.stdout.close()
    sys.stderr.close()
    os.close(1)
    os.close(2)


def close_input() -> None:
    assert sys.stdin.read() == ""
    os.close(0)


def handle_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)


def change_variables() -> None:
    os.environ.clear()
    os.environ["PYTHONPATH"] = "/nowhere"


def set_mask() -> None:
    os.umask(0o777)


def start_threads() -> None:
    threading.Thread(target=time.sleep, args=(600,)).start()


def start_program() -> None:
    subprocess.Popen([*SLEEP])


def use_pool() -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]


def leave_session() -> None:
    os.setpgid(0, 0) if os.getpid() != os.getsid(0) else None
    Path("/proc/self/comm").write_text("something else")


def spoil_modules() -> None:
    sys.modules["json"] = sys.modules["numpy"]
    sys.path.clear()
    sys.argv.clear()
    sys.setrecursionlimit(200)


def spoil_hooks() -> None:
    sys.excepthook = lambda *_: None
    sys.settrace(None)
    np.seterr(all="raise")
    multiprocessing.set_start_method("fork", force=True)


def open_much() -> None:
    KEPT.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(100))


KEPT: list[Any] = []
ENDURED: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        use_pool,  # first: a program whose SIGTERM does nothing cannot end its pool
        change_folder,
        print_much,
        close_output,
        close_input,
        handle_signals,
        change_variables,
        set_mask,
        start_threads,
        start_program,
        leave_session,
        spoil_modules,
        spoil_hooks,
        open_much,
    )
}
"""What a run gets over."""


def leave() -> None:
    print("the licence has expired")
    sys.exit(3)


def leave_at_once() -> None:
    print("the licence has expired", flush=True)
    os._exit(3)


def abort() -> None:
    os.abort()


def kill_unnamed() -> None:
    os.kill(os.getpid(), signal.SIGRTMIN + 1)


def kill_group() -> None:
    os.killpg(0, signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def raise_base() -> None:
    raise BaseException("the base of all errors")


def raise_group() -> None:
    raise ExceptionGroup("several", [ValueError("one"), TypeError("two")])


def raise_name() -> None:
    raise RuntimeError("no display: \udcff\n  set DISPLAY")


def close_everything() -> None:
    os.closerange(0, 256)


def run_out_of_stack() -> None:
    run_out_of_stack()


FATAL: dict[str, tuple[Callable[[], None], str]] = {
    "leave": (leave, "cannot be made with simulator.options.kwargs={'does': ['leave']}: SystemExit: 3 (unruly.py, line "),
    "leave_at_once": (leave_at_once, "lost its process when it was built: it ended by itself with exit code 3. The last it printed:\nthe licence has expired"),
    "abort": (abort, "lost its process when it was built: it crashed, because a native library aborted it (SIGABRT). The last it printed:\n"),
    "kill_group": (kill_group, "lost its process when it was built: it was killed (SIGKILL) by a user, "),
    "kill_unnamed": (kill_unnamed, f"lost its process when it was built: it was ended by signal {signal.SIGRTMIN + 1}. It printed nothing"),
    "interrupt": (interrupt, "cannot be described: KeyboardInterrupt"),
    "raise_base": (raise_base, "cannot be described: BaseException: the base of all errors"),
    "raise_group": (raise_group, "ExceptionGroup: several (2 sub-exceptions) (unruly.py, line "),
    "raise_name": (raise_name, "RuntimeError: no display: "),
    "close_everything": (close_everything, "lost its process when it was built: "),
    "run_out_of_stack": (run_out_of_stack, "RecursionError: "),
}
"""What nothing can be built after, and a part of what the user is told."""


class Unruly(Countdown):
    """Does all of these when it is built."""

    def __init__(self, does: list[str], **settings: Any) -> None:
        super().__init__(**settings)
        for name in does:
            ENDURED[name]() if name in ENDURED else FATAL[name][0]()


class Hanging(Countdown):
    def __init__(self) -> None:
        self.wait_for_a_display()

    def wait_for_a_display(self) -> None:
        time.sleep(600)


class Lists(Simulator):
    """Describes itself with lists and numpy's numbers, and its built self does too."""

    numbers: Any = {"front": [32, np.int64(32), 3]}, np.int32(2), ActionSpace("continuous", np.int64(3), low=np.float32(-1), high=1), 7, ["go"]  # type: ignore[arg-type]
    spaces = Spaces(*numbers)

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        return cls.spaces

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        pass

    def reset(self, slot: int, ticket: Any) -> Any: ...

    def step(self, chunks: Any) -> Any: ...


class Nothing(Lists):
    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        return None  # type: ignore[return-value]


class Wrong(Lists):
    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        return Spaces({"front": (32, 32)}, 2, ActionSpace("continuous", 3), 7)  # type: ignore[dict-item]


class Secret(Lists):
    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        return Spaces({}, 2, ActionSpace("continuous", 3), threading.Lock())  # type: ignore[arg-type]


class Broken(Lists):
    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        raise ValueError("no robot here")


class SpeedOptions(Section):
    speed: float = 1.0
    """Of its time."""


class Optional(Lists):
    """Has an option, and never looks at it."""

    Options = SpeedOptions


class OptionsOfAnotherKind(Lists):
    Options = dict  # type: ignore[assignment]
