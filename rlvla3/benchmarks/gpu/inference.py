"""Inference by batch size, against the limits of the device.

eager: `Policy.act`, as it is written, on observations that are on the device already.
shipped: the same batch as a generator infers it, with `policy.inference` as it is by default: from observations on the host to decisions on the host.

The limit of a batch is the longer of two times: its operations at the rate of the large product, and the weights once at the rate of the large copy.
share: limit / measured. It is 1 where the device does nothing in vain.
"""

from __future__ import annotations

from functools import partial

import torch

from rlvla3.benchmarks.gpu.operations import PolicyOperations, counting
from rlvla3.benchmarks.gpu.policies import POLICIES
from rlvla3.benchmarks.gpu.sheet import Sheet
from rlvla3.benchmarks.gpu.timing import begin_peak, free_memory, peak_gib, seconds_of
from rlvla3.planning.profiling.experience import noise_for, observations_for
from rlvla3.policies.base import Policy

SECONDS_A_BATCH = 3.0
"""About how long a batch size takes to measure."""


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
    begin_peak(device)
    for rows in sheet.sizes.batches:
        if not sheet.time_for(f"{name}, {rows} decisions", SECONDS_A_BATCH):
            continue
        try:
            sheet.write(name, "batches", rows, eager_ms=1000 * eager_seconds(policy, rows, device))
        except torch.OutOfMemoryError:
            sheet.skip(f"{name}, {rows} decisions", "out of memory")
    sheet.write(name, parameters=sum(parameter.numel() for parameter in policy.parameters()), peak_gib=peak_gib(device))
    del policy
    free_memory(device)


def eager_seconds(policy: Policy, rows: int, device: str) -> float:
    """Seconds of `Policy.act` for `rows` decisions."""
    observations, noise = observations_for(policy, rows, device), noise_for(policy, rows, device)
    explore = torch.ones(rows, dtype=torch.bool, device=device)
    with torch.inference_mode():
        return seconds_of(partial(policy.act, observations, noise, explore), device)


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
