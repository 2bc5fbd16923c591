"""How much of a GPU's memory inference and training take, measured on it: the part of a profile with which `rlvla3 plan` stays within the memory there is.

Each figure is what torch has reserved on the device at its peak, which is what other processes cannot have. Two sizes of a batch show what each decision takes.
The CUDA context of a process, some hundred megabytes, is not counted.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch

from rlvla3.config import Recipe
from rlvla3.devices import choose_device
from rlvla3.errors import WorkerError
from rlvla3.planning.profiling.contention import on_gpu
from rlvla3.planning.profiling.experience import episodes_of, noise_for, observations_for
from rlvla3.policies.registry import make_policy
from rlvla3.runtimes.processes.main_module import main_module_hidden
from rlvla3.runtimes.virtual.costs import MemoryProfile
from rlvla3.simulators.description import described
from rlvla3.training.learner import Learner
from rlvla3.types import MicroBatch

Peak = Callable[[Callable[[], object]], float]
"""Calls a function, and returns the most bytes that the device had reserved meanwhile."""


def device_memory(recipe: Recipe) -> MemoryProfile:
    """Measure the memory of a recipe's policy, in a process of its own. Where there is no GPU, nothing is known."""
    if not on_gpu(recipe):
        return MemoryProfile()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process, main_module_hidden():
        try:
            return process.submit(_measured, recipe).result(recipe.supervision.build_timeout_s)
        except TimeoutError as error:
            for child in multiprocessing.active_children():  # it hangs, and the pool would wait for it
                child.kill()
            raise WorkerError(
                f"the memory of the policy was not measured within supervision.build_timeout_s={recipe.supervision.build_timeout_s:g} s: "
                "does its act, evaluate or constructor hang?"
            ) from error


def memory_of(recipe: Recipe, device: torch.device, peak: Peak) -> MemoryProfile:
    """The memory of generator and trainer. Raises torch.OutOfMemoryError where the device is too small."""
    spaces, torch_device = described(recipe.simulator).spaces, str(device)
    largest = max(recipe.environments, 2)
    policy = make_policy(recipe.policy, spaces).to(device).eval()
    policy.compute_in(recipe.training.precision, device)

    def infer(rows: int) -> None:
        with torch.inference_mode():
            policy.act(observations_for(policy, rows, torch_device), noise_for(policy, rows, torch_device), torch.ones(rows, dtype=torch.bool, device=device))

    generator, inference = _each((1, largest), [peak(partial(infer, rows)) for rows in (1, largest)])
    group, micro = recipe.algorithm.group_size, max(recipe.training.micro_batch, 2)
    count = -(-max(group, micro // 4) // group) * group
    rollouts = episodes_of(policy, count, torch_device)
    learner = Learner(policy, recipe, rollouts, device)
    places = [(ticket, row) for ticket in range(count) for row in range(rollouts.decisions(ticket))]

    def train(decisions: int) -> None:
        for update in range(2):  # the first one may train only the critic
            learner.begin_update(update, range(count))
            tickets, rows = np.resize(np.array(places), (decisions, 2)).T
            learner.accumulate(MicroBatch(tickets, rows, epoch=0, step=0, closes_step=True, closes_epoch=True))
            learner.step()
            learner.finish_update()

    halves = (micro // 2, micro)
    trainer, activations = _each(halves, [peak(partial(train, size)) for size in halves])
    return MemoryProfile(generator=generator, inference=inference, trainer=trainer, activations=activations)


def _measured(recipe: Recipe) -> MemoryProfile:
    """The body of the process."""
    device = choose_device(recipe.engine.device, "engine.device")

    def peak(call: Callable[[], object]) -> float:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return float(torch.cuda.max_memory_reserved(device))

    found = memory_of(recipe, device, peak)
    return found.model_copy(update={"device": float(torch.cuda.get_device_properties(device).total_memory)})


def _each(sizes: tuple[int, int], peaks: list[float]) -> tuple[float, float]:
    """From the peaks with two sizes: what is held whatever the size, and what each item of it takes."""
    (few, many), (low, high) = sizes, peaks
    each = max(high - low, 0.0) / (many - few)
    return max(low - few * each, 0.0), each
