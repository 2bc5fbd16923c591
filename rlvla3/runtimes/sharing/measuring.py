"""Both ways of sharing a GPU, measured at the start of a run with work that stands in for that of the run. Nothing here imports torch.

The workers are started as those of the run are: two lanes of one process, and two processes. All are built first. Then one way works while the other one waits,
and both sides of the way always have work. So the figures say how a way divides the GPU, and not how much of it the run will need.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvla3.config import Recipe
from rlvla3.config.engine import Share
from rlvla3.runtimes.processes.lanes import Lane
from rlvla3.runtimes.processes.process import START_TIMEOUT_S, WorkerProcess, start_lanes
from rlvla3.runtimes.processes.rounds import NoAnswer, WorkUntil, answer_of
from rlvla3.runtimes.sharing.choice import Speeds, better, is_open, shared_gpu
from rlvla3.runtimes.sharing.mps import mps_in_words

MEASURE_S = 0.8
"""Seconds of measurement, for each way."""

STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class StandIn:
    """The sizes of the work. frames: bytes that each side copies on the host in a round.

    An inference: `kernels` products of [rows, width] and [width, width]. A training pass: `products` products of [size, size] and [size, size].
    """

    rows: int = 32
    width: int = 1024
    kernels: int = 64
    size: int = 4096
    products: int = 32
    frames: int = 32 * 2 * 224 * 224 * 3


@dataclass(frozen=True, slots=True)
class OnDevice:
    """Stand-in to coordinator, after Ready: where it computes."""

    device: str


def share_in_words(recipe: Recipe) -> str | None:
    """What is known before a run of how generator and trainer share a GPU. None if they do not."""
    device, share = shared_gpu(recipe), recipe.engine.share
    if device is None:
        return None
    way = "lanes or processes, which is measured at the start" if is_open(recipe) else "lanes" if share == "lanes" else "processes"
    return f"generator and trainer share {device} as {way}. The GPU serves several processes {mps_in_words()}"


async def choose_share(recipe: Recipe, logs: Path, notify: Callable[[str], None]) -> Share:
    """How the first generator and the first rank of a run share a device. It measures where `is_open` and they share a GPU, and says what it took and why.

    Raises WorkerError for what the run would be refused for too.
    """
    device, share = shared_gpu(recipe), recipe.engine.share
    if device is None or not is_open(recipe):
        if device is not None and share == "processes":
            notify(f"generator and trainer share {device}, which serves their processes {mps_in_words()}")
        return "lanes" if share == "lanes" else "processes"
    try:
        measured = await measure(recipe, logs)
    except NoAnswer as error:  # the stand-ins have failed, and the run need not
        why = str(error).partition("\n")[0]
        notify(f"engine.share=auto takes processes for generator and trainer on {device}, because lanes could not be measured: {why}")
        return "processes"
    if measured is None:
        return "processes"
    taken = better(*measured)
    notify(
        f"engine.share=auto takes {taken} for generator and trainer on {device}. Measured with stand-in work: {measured[0]} with lanes; "
        f"{measured[1]} with processes, which the GPU serves {mps_in_words()}"
    )
    return taken


async def measure(
    recipe: Recipe, logs: Path, work: StandIn | None = None, seconds: float = MEASURE_S, only_on: Sequence[str] = ("cuda",)
) -> tuple[Speeds, Speeds] | None:
    """Measure lanes and processes. None where the workers' device is of another kind than `only_on`. Raises NoAnswer."""
    inference, training = (
        Lane(f"share {side}", f"rlvla3.runtimes.sharing.stand_in:run_{side}", (recipe, work or StandIn())) for side in ("inference", "training")
    )
    in_lanes = [Lane(lane.name, f"{lane.body}_lane", lane.args) for lane in (inference, training)]
    lanes = start_lanes(in_lanes, logs / "share-lanes.log")
    processes = [worker for lane in (inference, training) for worker in start_lanes([lane], logs / f"{lane.name.replace(' ', '-')}.log")]
    workers = [*lanes, *processes]
    try:
        for worker in workers:
            await answer_of(worker, START_TIMEOUT_S)  # Ready
        devices = [(await answer_of(worker, START_TIMEOUT_S)).device for worker in workers]
        if any(device.partition(":")[0] not in only_on for device in devices):
            return None
        return await _speeds(lanes, seconds), await _speeds(processes, seconds)
    finally:
        await asyncio.gather(*(worker.stop(STOP_TIMEOUT_S) for worker in workers))


async def _speeds(workers: Sequence[WorkerProcess], seconds: float) -> Speeds:
    """Let both workers of a way, inference and training, work side by side."""
    until = time.monotonic() + seconds
    for worker in workers:
        worker.control.send(WorkUntil(until))
    inference, training = [(await answer_of(worker, START_TIMEOUT_S + seconds)).seconds for worker in workers]
    return Speeds(inference, 1 / training)
