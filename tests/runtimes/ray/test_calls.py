"""Calls that may hang have an end, and nobody waits for their threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from rlvla3.errors import WorkerError
from rlvla3.runtimes.ray.calls import within


def test_a_call_gives_its_result_or_its_error() -> None:
    assert asyncio.run(within(60, lambda: 7, "late")) == 7
    with pytest.raises(ZeroDivisionError):
        asyncio.run(within(60, lambda: 1 // 0, "late"))


def test_a_call_that_hangs_ends_in_words_and_is_not_waited_for() -> None:
    hung = threading.Event()
    with pytest.raises(WorkerError, match="the cluster does not answer"):
        asyncio.run(within(0.05, hung.wait, "the cluster does not answer"))
    hung.set()


def test_a_call_that_returns_too_late_troubles_nobody() -> None:
    hung = threading.Event()

    async def run() -> None:
        with pytest.raises(WorkerError):
            await within(0.05, hung.wait, "late")
        hung.set()
        await asyncio.sleep(0.05)

    asyncio.run(run())
