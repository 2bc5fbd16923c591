"""Training by micro-batch, against the rate of the large product.

The learner itself learns from made-up episodes: it gathers the decisions, evaluates them, computes the loss and adds the gradients, several micro-batches in a
row as within an optimizer step. Everything is as it is by default on this device.

mfu: model FLOPs utilisation (Chowdhery et al., "PaLM", arXiv 2204.02311, appendix B): the policy's own operations a second, as a share of the rate of the large
product that was measured here. What gradient checkpointing computes twice counts once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from rlvla3.benchmarks.gpu.operations import PolicyOperations, counting
from rlvla3.benchmarks.gpu.policies import POLICIES, MeasuredPolicy
from rlvla3.benchmarks.gpu.sheet import Sheet
from rlvla3.benchmarks.gpu.timing import begin_peak, free_memory, peak_gib, synchronise
from rlvla3.config import Recipe, make_recipe
from rlvla3.links.rollouts import Rollouts
from rlvla3.planning.profiling.experience import DECISIONS, episodes_of
from rlvla3.training.learner import Learner
from rlvla3.types import MicroBatch

SECONDS_A_SIZE = 6.0
"""About how long a micro-batch size takes to measure."""

IN_A_ROW, STEPS = 4, 3
"""Micro-batches of an optimizer step, and optimizer steps that are measured after the first."""


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Seconds of a micro-batch, and of the optimizer's part of a step."""

    micro_batch: float
    optimizer: float


def measure(sheet: Sheet) -> None:
    """Measure each policy at each micro-batch size. MFU is written when the operations are counted."""
    with counting(sheet.sizes.training) as operations:
        for name in sheet.sizes.training:
            measure_policy(sheet, name)
        for name in sheet.sizes.training:
            if sheet.figures.get(name):
                write_utilisation(sheet, name, operations(name))


def measure_policy(sheet: Sheet, name: str) -> None:
    """The time and the memory of each micro-batch size. Where memory is too small, the size is measured again with gradient checkpointing."""
    for checkpointing in (False, True):
        missing = [size for size in sheet.sizes.micro_batches if str(size) not in sheet.figures.get(name, {}).get("micro_batches", {})]
        if missing and sheet.time_for(name, SECONDS_A_SIZE):
            _measure_sizes(sheet, name, missing, checkpointing)
            free_memory(sheet.sizes.device)  # the next learner may need all of it
        if not sheet.sizes.on_gpu:
            return


def _measure_sizes(sheet: Sheet, name: str, sizes: list[int], checkpointing: bool) -> None:
    device, measured = sheet.sizes.device, POLICIES[name]
    try:
        policy = measured.build(device)
        with torch.inference_mode():
            rollouts = episodes_of(policy, max(1, max(sizes) // DECISIONS), device)
        learner = Learner(policy, _recipe(measured, checkpointing), rollouts, device)
        for size in sizes:
            if sheet.time_for(f"{name}, {size} decisions", SECONDS_A_SIZE):
                _measure_size(sheet, name, learner, size, checkpointing)
    except torch.OutOfMemoryError:
        sheet.skip(f"{name}, learner", "out of memory")


def _measure_size(sheet: Sheet, name: str, learner: Learner, size: int, checkpointing: bool) -> None:
    device, what = sheet.sizes.device, f"{name}, {size} decisions"
    begin_peak(device)
    try:
        spent = step_seconds(learner, size, device)
    except torch.OutOfMemoryError:
        spent = None
    if spent is None:  # only here are the activations free: the error kept them
        learner.optimizer.zero_grad()
        learner.optimizer.state.clear()  # a step that was broken off has made only a part of it
        free_memory(device)
        sheet.skip(what, "out of memory, with gradient checkpointing too" if checkpointing else "out of memory")
        return
    sheet.not_run.pop(what, None)
    figures = {"ms": 1000 * spent.micro_batch, "optimizer_ms": 1000 * spent.optimizer, "peak_gib": peak_gib(device), "checkpointing": checkpointing}
    sheet.write(name, "micro_batches", size, **figures)


def step_seconds(learner: Learner, size: int, device: str) -> StepSeconds:
    """The median seconds over STEPS optimizer steps of IN_A_ROW micro-batches each. Each step is an update of its own."""
    passes, steps, batches = [], [], list(_micro_batches(learner.rollouts, size))
    for update in range(1 + STEPS):
        learner.begin_update(update, range(learner.rollouts.spec.capacity))
        synchronise(device)
        began = time.perf_counter()
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            learner.accumulate(batch)
            if following is not None:
                learner.prepare(following)
        synchronise(device)
        accumulated = time.perf_counter()
        learner.step()
        synchronise(device)
        stepped = time.perf_counter()
        learner.finish_update()
        passes.append((accumulated - began) / IN_A_ROW)
        steps.append(stepped - accumulated)
    return StepSeconds(median(passes[1:]), median(steps[1:]))


def write_utilisation(sheet: Sheet, name: str, operations: PolicyOperations) -> None:
    """MFU of each micro-batch size that was measured."""
    rate = sheet.earlier.get("limits", {}).get("product_tflops")
    if rate is None:
        sheet.skip(f"MFU of {name}", "the limits of the device are not known")
        return
    for size, figures in dict(sheet.figures[name]["micro_batches"]).items():
        tflop = operations.learning.of(int(size)) / 1e12
        sheet.write(name, "micro_batches", size, tflop=tflop, mfu=tflop / (figures["ms"] / 1000) / rate)


def _micro_batches(rollouts: Rollouts, size: int) -> Iterator[MicroBatch]:
    """IN_A_ROW micro-batches of `size` decisions. Decisions come again where there are too few."""
    places = np.arange(size) % (rollouts.spec.capacity * DECISIONS)
    for number in range(IN_A_ROW):
        last = number == IN_A_ROW - 1
        yield MicroBatch(places // DECISIONS, places % DECISIONS, epoch=0, step=0, closes_step=last, closes_epoch=last)


def _recipe(measured: MeasuredPolicy, checkpointing: bool) -> Recipe:
    """The settings of learning. Nothing is learned from an earlier policy, so a pass is one forward and one backward pass, and no weights are kept beside."""
    return make_recipe(
        {
            "engine": {"mode": "sync"},
            "policy": measured.config.model_dump(mode="json"),
            "algorithm": {"normalise": "none", "correction": "none"},
            "training": {"steps": 1, "epochs": 1, "learning_rate": 1e-12, "gradient_checkpointing": checkpointing},
        }
    )
