"""How much of its device's memory a worker may use. Which device that is: rlvla3/devices.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from rlvla3.choices import OnHost
from rlvla3.config import Recipe
from rlvla3.config.memory import TOGETHER
from rlvla3.devices import choose_device
from rlvla3.errors import RecipeError
from rlvla3.observability.formatting import size
from rlvla3.runtimes.worker_names import generator_name, trainer_name

RESERVE = 0.05
"""The part of a GPU that a trainer without a limit leaves free, for generators and simulators that need more later."""


def check_on_host(on_host: OnHost, device: torch.device, key: str) -> None:
    """Raises RecipeError if versions are to lie on a GPU and this worker's device is not one. key: the setting that names the device."""
    if on_host == "cuda_ipc" and device.type != "cuda":
        raise RecipeError(f"weights.on_host=cuda_ipc maps a GPU's memory, and the device of {key} is {device}: set weights.on_host=shared_memory")


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """Bytes of a GPU. total: all of it. free: nobody's. own: held by this worker. beside: held by the other lane of its process."""

    total: int
    free: int
    own: int
    beside: int = 0

    @classmethod
    def of(cls, device: torch.device, in_lane: bool) -> DeviceUse:
        """As it is now, for the worker of this thread. Memory that torch keeps for later tensors is held too.

        A lane holds what streams of its priority have allocated.
        """
        free, total = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device)
        if not in_lane:
            return cls(total, free, held)
        lane = torch.cuda.current_stream(device)
        segments = [part for part in torch.cuda.memory_snapshot() if part["device"] == lane.device_index]
        ours = {stream for stream in {part["stream"] for part in segments} if torch.cuda.ExternalStream(stream, device).priority == lane.priority}
        own = sum(part["total_size"] for part in segments if part["stream"] in ours)
        return cls(total, free, own, max(held - own, 0))

    def in_words(self, worker: str) -> str:
        beside = f", the other lane of its process {size(self.beside)}" if self.beside else ""
        others = max(self.total - self.free - self.own - self.beside, 0)
        return f"Of {size(self.total)} there, the {worker} holds {size(self.own)}{beside}, other processes {size(others)}, and {size(self.free)} is free"


@dataclass(frozen=True, slots=True)
class MemoryShare:
    """How much of a device's memory a worker may use.

    settings: that say so, joined by "and". share: of the device, for all `processes` of the worker's stage on it together (None: no limit). smaller: a setting
    that makes the worker need less. in_lane: whether its process has another lane, whose memory counts too. leaves_room: whether it leaves RESERVE free, where
    nothing limits it.
    """

    worker: str
    device: torch.device
    settings: str
    share: float | None
    smaller: str
    processes: int = 1
    in_lane: bool = False
    leaves_room: bool = False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Limit this process to its share from now on. Raises RecipeError in place of torch.OutOfMemoryError."""
        if self.device.type == "cuda" and self.share is not None:
            torch.cuda.set_per_process_memory_fraction(self.share / self.processes, self.device)
        try:
            yield
        except torch.OutOfMemoryError as error:
            use = DeviceUse.of(self.device, self.in_lane) if self.device.type == "cuda" else None
            raise RecipeError(self._complaint(str(error), use)) from error

    def leave_room(self) -> None:
        """Limit this process to what it holds now and what is free, less RESERVE, if it `leaves_room` and nothing else limits it.

        To be called before training, when generators and simulators are there. torch keeps what a training pass has used once, and a generator that needs more
        for a larger batch would find nothing left.
        """
        if self.device.type == "cuda" and self.share is None and self.leaves_room:
            use = DeviceUse.of(self.device, in_lane=False)
            torch.cuda.set_per_process_memory_fraction(room(use), self.device)

    def _complaint(self, found: str, use: DeviceUse | None) -> str:
        first = found.partition("\n")[0].partition(" See documentation")[0].rstrip(". ")
        used = f"{use.in_words(self.worker)}. " if use else ""
        if self.share is None:
            limit = f"{self.settings} is not set, so it may use what others leave free{f', less {RESERVE:.0%} of the device' if self.leaves_room else ''}"
            way_out = f"set less for the other stages under memory:, lower {self.smaller}, or use another device"
        else:
            part = f", of which each of {self.processes} processes has an equal part" if self.processes > 1 else ""
            whose = "Its process's share" if self.in_lane else "Its share"
            limit = f"{whose} of the device is {self.settings}={self.share:g}{part}"
            way_out = f"raise {self.settings}, or lower {self.smaller}"
        return f"the {self.worker} ran out of memory on {self.device}: {first}. {used}{limit}: {way_out}"


def room(use: DeviceUse) -> float:
    """The part of a GPU that a process may take which holds `use.own` now: that, and what is free, less RESERVE."""
    return min(max(use.own + use.free - RESERVE * use.total, use.own, 1) / use.total, 1.0)


def generator_memory(recipe: Recipe, generator: int, device: torch.device) -> MemoryShare:
    """The generators on one device have equal parts of their stage's share."""
    engine = recipe.engine
    here = sum(choose_device(engine.device, "engine.device", other) == device for other in range(engine.generators))
    share = MemoryShare(generator_name(generator), device, "memory.generator", recipe.memory.generator, "engine.max_batch", here)
    return _with_other_lane(share, recipe, here) if generator == 0 else share


def trainer_memory(recipe: Recipe, rank: int, device: torch.device) -> MemoryShare:
    """Each rank has a GPU of its own, which it may share with generators. With engine.offload they are never there at the same time."""
    engine = recipe.engine
    here = sum(choose_device(engine.device, "engine.device", other) == device for other in range(engine.generators))
    meets = here > 0 if recipe.runtime == "local" else any({"trainer", "generator"} <= set(stages) for stages in TOGETHER[recipe.placement.kind])
    leaves_room = meets and not engine.offload
    share = MemoryShare(trainer_name(rank), device, "memory.trainer", recipe.memory.trainer, "training.micro_batch", leaves_room=leaves_room)
    return _with_other_lane(share, recipe, here) if rank == 0 else share


def _with_other_lane(share: MemoryShare, recipe: Recipe, generators: int) -> MemoryShare:
    """torch limits a process and no thread. So lanes have one limit, the sum of their parts, if both parts are given."""
    if recipe.engine.share != "lanes":
        return share
    trainer, generator = recipe.memory.trainer, recipe.memory.generator
    both = None if trainer is None or generator is None else trainer + generator / max(generators, 1)
    return replace(share, settings="memory.trainer and memory.generator", share=both, processes=1, in_lane=True)
