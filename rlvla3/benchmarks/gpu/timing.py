"""The time of a call on a device. A GPU works after a call has returned. So each measurement ends by waiting for the device."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable
from statistics import median

import torch

WARMUP = 2
"""Calls before the first that is measured: libraries choose their kernels, and memory is allocated."""

FEWEST, MOST, ENOUGH_S = 3, 50, 0.4
"""At least FEWEST calls are measured, then more until ENOUGH_S seconds or MOST calls."""


def synchronise(device: str) -> None:
    """Wait until the device has finished all work. On a CPU there is nothing to wait for."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: str, warmup: int = WARMUP) -> float:
    """The median seconds of a call, from its begin until the device is done."""
    for _ in range(warmup):
        call()
    synchronise(device)
    spent: list[float] = []
    while not _enough(spent):
        began = time.perf_counter()
        call()
        synchronise(device)
        spent.append(time.perf_counter() - began)
    return median(spent)


async def seconds_to_answer(call: Callable[[], Awaitable[object]]) -> float:
    """The median seconds of a call that itself waits for the device."""
    for _ in range(WARMUP):
        await call()
    spent: list[float] = []
    while not _enough(spent):
        began = time.perf_counter()
        await call()
        spent.append(time.perf_counter() - began)
    return median(spent)


def _enough(spent: list[float]) -> bool:
    return len(spent) >= FEWEST and (len(spent) >= MOST or sum(spent) >= ENOUGH_S)


def seconds_in_a_row(call: Callable[[], object], device: str, calls: int) -> float:
    """The mean seconds of `calls` calls that the device works off without a pause."""
    for _ in range(WARMUP):
        call()
    synchronise(device)
    began = time.perf_counter()
    for _ in range(calls):
        call()
    synchronise(device)
    return (time.perf_counter() - began) / calls


def begin_peak(device: str) -> None:
    """Begin to watch how much memory tensors take on the device."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: str) -> float | None:
    """The most memory that tensors took since `begin_peak`, in GiB. None on a CPU."""
    return None if device == "cpu" else torch.cuda.max_memory_allocated(device) / 2**30


def free_memory(device: str) -> None:
    """Give memory that no tensor holds back to the device. Call it when no variable holds a learner, a policy or an actor any more.

    They hold themselves in cycles, which Python collects some time later. A full device does not make it collect them.
    """
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
