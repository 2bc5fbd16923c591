"""Generator and trainer as lanes of one process: each has a CUDA stream of its own, and the kernels of inference go before those of training.

A simulator waits for each inference, and nobody waits for a single pass of training. So where both have work for the GPU, the inference should go first. The
priority of a stream says so: the GPU starts thread blocks of the stream with the higher priority first. Blocks that run are not interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rlvla3.config import Recipe
from rlvla3.devices import choose_device, work_on
from rlvla3.errors import RecipeError
from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.workers.generator_worker import run_generator
from rlvla3.runtimes.workers.trainer_worker import run_trainer

INFERENCE_PRIORITY, TRAINING_PRIORITY = -1, 0
"""Priorities of CUDA streams. The smaller number goes first."""


async def run_generator_lane(control: Control, generator: int, recipe: Recipe, *args: Any) -> None:
    """`run_generator` on a stream of its own."""
    with lane_stream(shared_device(recipe), INFERENCE_PRIORITY):
        await run_generator(control, generator, recipe, *args)


async def run_trainer_lane(control: Control, recipe: Recipe, *args: Any) -> None:
    """`run_trainer` on a stream of its own."""
    with lane_stream(shared_device(recipe), TRAINING_PRIORITY):
        await run_trainer(control, recipe, *args)


def shared_device(recipe: Recipe) -> torch.device:
    """The device of the first generator and the first rank. Raises RecipeError if they have a device each."""
    inference = choose_device(recipe.engine.device, "engine.device")
    training = choose_device(recipe.training.device, "training.device")
    if inference != training:
        raise RecipeError(
            f"engine.share=lanes is for a device that generator and trainer share, and engine.device is {inference} and training.device is {training}: "
            f"set engine.share=processes, or give both the same device"
        )
    return inference


@contextmanager
def lane_stream(device: torch.device, priority: int) -> Iterator[None]:
    """Let this thread work on a new stream of `device`. A CPU has no streams. The present stream of torch belongs to a thread, so other lanes keep theirs."""
    if device.type != "cuda":
        yield
        return
    work_on(device)
    with torch.cuda.stream(torch.cuda.Stream(device, priority)):
        yield
