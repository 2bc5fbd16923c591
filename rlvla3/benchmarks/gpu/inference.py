"""Inference by batch size, against the limits of the device.

eager: `Policy.act`, as it is written and as a generator with policy.inference=eager calls it, on observations that are on the device already.
shipped: the same batch as a generator infers it, with `policy.inference` as it is by default: from rows of observations on the host to decisions on the host
(inference/actor.py). Only the copies from and to the data plane are not in it.

The limit of a batch is the longer of two times: its operations at the rate of the large product, and the weights once at the rate of the large copy.
share: limit / measured. It is 1 where the device does nothing in vain.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from rlvla3.benchmarks.gpu.operations import PolicyOperations, counting
from rlvla3.benchmarks.gpu.policies import POLICIES
from rlvla3.benchmarks.gpu.sheet import Sheet
from rlvla3.benchmarks.gpu.timing import begin_peak, free_memory, peak_gib, seconds_of, seconds_to_answer
from rlvla3.inference.actor import Actor, make_actor
from rlvla3.planning.profiling.experience import noise_for, observations_for
from rlvla3.policies.base import Policy
from rlvla3.types import observation_layout

SECONDS_A_BATCH, SECONDS_TO_PREPARE = 3.0, 20.0
"""About how long a batch size takes to measure, and an actor to be prepared."""


def measure(sheet: Sheet) -> None:
    """Measure each policy at each batch size. The limits are written when the operations are counted."""
    with counting(sheet.sizes.inferring) as operations:
        for name in sheet.sizes.inferring:
            measure_policy(sheet, name)
        for name in sheet.sizes.inferring:
            if sheet.figures.get(name):
                write_limits(sheet, name, operations(name))


def measure_policy(sheet: Sheet, name: str) -> None:
    """The time of an inference at each batch size, and the memory of the largest."""
    device = sheet.sizes.device
    if not sheet.time_for(name, SECONDS_A_BATCH):
        return
    policy = POLICIES[name].build(device)
    sheet.write(name, parameters=sum(parameter.numel() for parameter in policy.parameters()))
    begin_peak(device)
    _measure_shipped(sheet, name, policy)
    free_memory(device)
    for rows in sheet.sizes.batches:
        if not sheet.time_for(f"{name}, {rows} decisions, eager", SECONDS_A_BATCH):
            continue
        try:
            sheet.write(name, "batches", rows, eager_ms=1000 * eager_seconds(policy, rows, device))
        except torch.OutOfMemoryError:
            sheet.skip(f"{name}, {rows} decisions, eager", "out of memory")
    sheet.write(name, peak_gib=peak_gib(device))
    del policy
    free_memory(device)


def _measure_shipped(sheet: Sheet, name: str, policy: Policy) -> None:
    """As a generator does it: the actor is prepared for the largest batch, and then answers each batch size."""
    what, sizes = f"{name}, as shipped", sheet.sizes
    if not sheet.time_for(what, SECONDS_TO_PREPARE if sizes.on_gpu else 0):
        return
    began = sheet.left
    try:
        actor = make_actor(policy, torch.device(sizes.device), "auto", max(sizes.batches))
    except torch.OutOfMemoryError:
        sheet.skip(what, "out of memory")
        return
    sheet.write(name, way=actor.way, prepared_s=began - sheet.left, notices=actor.notices, largest=actor.largest)
    for rows in sizes.batches:
        if rows > actor.largest:
            sheet.skip(f"{what}, {rows} decisions", "out of memory")
        elif sheet.time_for(f"{what}, {rows} decisions", SECONDS_A_BATCH):
            sheet.write(name, "batches", rows, shipped_ms=1000 * shipped_seconds(actor, rows))


def shipped_seconds(actor: Actor, rows: int) -> float:
    """Seconds from `rows` observations in host memory to their decisions in host memory."""
    random, layout = np.random.default_rng(0), observation_layout(actor.policy.spaces)
    arrays = {name: random.integers(0, 2, (rows, *field.shape)).astype(field.dtype) for name, field in layout.items()}
    instructions = list(actor.policy.spaces.instructions[:1]) * rows
    noise = noise_for(actor.policy, rows, "cpu").numpy()
    explore = np.ones(rows, np.bool_)
    with ThreadPoolExecutor(1) as waiter:

        async def answer() -> None:
            for name, room in actor.waiting.rows(rows).items():
                room[:] = arrays[name]
            actor.waiting.add(rows)
            await actor.begin(range(rows), instructions, noise, explore).ended(waiter)

        return asyncio.run(seconds_to_answer(answer))


def eager_seconds(policy: Policy, rows: int, device: str) -> float:
    """Seconds of `Policy.act` for `rows` decisions."""
    observations, noise = observations_for(policy, rows, device), noise_for(policy, rows, device)
    explore = torch.ones(rows, dtype=torch.bool, device=device)
    act = partial(policy.act, observations, noise, explore)

    def within_one_cast() -> None:  # as inference/actor.py does: else each denoising step would cast the weights again
        with torch.no_grad(), torch.autocast(torch.device(device).type, enabled=False):
            act()

    return seconds_of(within_one_cast, device)


def write_limits(sheet: Sheet, name: str, operations: PolicyOperations) -> None:
    """The limit of each batch that was measured, and the share of it that is reached."""
    limits = sheet.earlier.get("limits", {})
    if not {"product_tflops", "copy_gb_per_s"} <= limits.keys():
        sheet.skip(f"limits of {name}", "the limits of the device are not known")
        return
    reading = operations.read / (1e9 * limits["copy_gb_per_s"])
    for rows, figures in dict(sheet.figures[name].get("batches", {})).items():
        computing = operations.acting.of(int(rows)) / (1e12 * limits["product_tflops"])
        limit = 1000 * max(computing, reading)
        shares = {f"{way}_share": limit / figures[f"{way}_ms"] for way in ("eager", "shipped") if f"{way}_ms" in figures}
        sheet.write(name, "batches", rows, tflop=operations.acting.of(int(rows)) / 1e12, limit_ms=limit, **shares)
