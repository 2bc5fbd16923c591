"""Work that stands in for that of a run while ways of sharing a GPU are measured: an inference of many small kernels, and a training pass of large products.

On a GPU the inference is a CUDA graph, as a generator's is there by default. Both sides also copy frames on the host, as the gathering of a batch does: in one
process, two threads cannot do that at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from rlvla3.config import Recipe
from rlvla3.devices import work_on
from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.processes.messages import Ready
from rlvla3.runtimes.processes.rounds import RoundSeconds, WorkUntil
from rlvla3.runtimes.sharing.measuring import OnDevice, StandIn
from rlvla3.runtimes.workers.lanes import INFERENCE_PRIORITY, TRAINING_PRIORITY, lane_stream, shared_device

WARM_UP = 3
"""Rounds before the measurement: libraries load their kernels in the first ones."""


async def run_inference(control: Control, recipe: Recipe, work: StandIn) -> None:
    await _obey(control, shared_device(recipe), work, inference)


async def run_training(control: Control, recipe: Recipe, work: StandIn) -> None:
    await _obey(control, shared_device(recipe), work, training)


async def run_inference_lane(control: Control, recipe: Recipe, work: StandIn) -> None:
    with lane_stream(shared_device(recipe), INFERENCE_PRIORITY):
        await run_inference(control, recipe, work)


async def run_training_lane(control: Control, recipe: Recipe, work: StandIn) -> None:
    with lane_stream(shared_device(recipe), TRAINING_PRIORITY):
        await run_training(control, recipe, work)


async def _obey(control: Control, device: torch.device, work: StandIn, make: Callable[[torch.device, StandIn], Callable[[], Tensor]]) -> None:
    """Build the work, and do rounds of it whenever that is asked for, until cancelled."""
    torch.set_num_threads(1)
    work_on(device)
    with torch.inference_mode():
        compute = make(device, work)
        frames, order = np.zeros((2, work.rows, work.frames // work.rows), np.uint8), np.arange(work.rows)

        def one_round() -> None:
            np.take(frames[0], order, 0, out=frames[1])
            compute().cpu()  # the result is on the host when the round ends

        for _ in range(WARM_UP):
            one_round()
        control.send(Ready())
        control.send(OnDevice(str(device)))
        while True:
            asked: WorkUntil = await control.receive()
            control.send(RoundSeconds(fmean(_seconds(one_round, asked.until))))


def _seconds(one_round: Callable[[], None], until: float) -> Iterator[float]:
    """The seconds of each round until a time of the monotonic clock, and of at least one."""
    now = time.monotonic()
    while True:
        began = now
        one_round()
        now = time.monotonic()
        yield now - began
        if now >= until:
            return


def inference(device: torch.device, work: StandIn) -> Callable[[], Tensor]:
    """One inference: products of a few rows, each with an activation after it. Returns numbers [width] on the device."""
    rows, weight = (torch.zeros(count, work.width, dtype=torch.bfloat16, device=device) for count in (work.rows, work.width))

    def compute() -> Tensor:
        x = rows
        for _ in range(work.kernels):
            x = torch.tanh(x @ weight)
        return x[0]

    return _graph_of(compute, device) if device.type == "cuda" else compute


def training(device: torch.device, work: StandIn) -> Callable[[], Tensor]:
    """One training pass: products that fill the device, launched one by one. Returns numbers [size] on the device."""
    left, right, product = (torch.zeros(work.size, work.size, dtype=torch.bfloat16, device=device) for _ in range(3))

    def compute() -> Tensor:
        for _ in range(work.products):
            torch.mm(left, right, out=product)
        return product[0]

    return compute


def _graph_of(compute: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """The same as a CUDA graph. Its kernels have the priority of the stream that it is captured on, whatever the stream that it is launched on."""
    present = torch.cuda.current_stream(device)
    capturing = torch.cuda.Stream(device, present.priority)
    capturing.wait_stream(present)
    with torch.cuda.stream(capturing):
        compute()  # what is done once, such as making a workspace, cannot be captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=capturing, capture_error_mode="thread_local"):  # another lane of this process may go on
        result = compute()
    present.wait_stream(capturing)

    def launch() -> Tensor:
        graph.replay()
        return result

    return launch
