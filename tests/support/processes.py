"""Processes for tests, started as the runtime starts its workers."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")

PATIENCE_S = 60.0
"""How long it may take at most: a hang fails instead of lasting."""


@contextmanager
def another_process(function: Callable[..., None], *args: Any) -> Iterator[None]:
    """`function(*args)` runs in a spawned process beside what is done inside, and has ended without an error afterwards."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=args, daemon=True)
    process.start()
    try:
        yield
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        process.close()


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """What `function` returns or raises in a spawned process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
