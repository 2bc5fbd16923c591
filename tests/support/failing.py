"""Workers that fail: bodies and simulators that raise a chosen error. Without torch: a process that imports this starts soon."""

from __future__ import annotations

import importlib
import multiprocessing
from typing import Any

import rlvla3
from tests.support.troublesome import Countdown


def raise_it(error: str) -> Any:
    """Raise an error of the class `error`, written as module:Class, as if code of rlvla3 did."""
    module, _, name = error.partition(":")
    raise_this(getattr(importlib.import_module(module), name)(message_of(error)))


def raise_this(error: BaseException) -> Any:
    """Raise `error` as if code of rlvla3 did: what code of the user raises is shown differently."""
    exec(compile("raise error", rlvla3.__file__, "exec"), {"error": error})


def message_of(error: str) -> str:
    return f"{error} was asked for: ask for something else"


async def fail(control: Any, error: str) -> None:
    """The body of a worker process."""
    raise_it(error)


async def fail_in_an_actor(control: Any, state: Any, error: str) -> None:
    """The body of a Ray actor."""
    raise_it(error)


class FailsInAShard(Countdown):
    """The command can describe it, and a process of its own cannot build it."""

    def __init__(self, error: str, **settings: Any) -> None:
        super().__init__(**settings)
        if multiprocessing.parent_process() is not None:
            raise_it(error)
