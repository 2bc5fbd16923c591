"""When there is something to choose for engine.share, and which of two measured ways is better. Pure: no processes and no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlvla3.config import Recipe
from rlvla3.config.engine import Share
from rlvla3.inference.choice import has_gpu

MARGIN = 1.05
"""Lanes must be so many times better. Two processes do not share Python's lock, their memory is limited separately, and one measurement is not exact."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """One way of sharing, measured while both sides always have work. inference_s: mean seconds of an inference. passes: training passes a second."""

    inference_s: float
    passes: float

    @property
    def score(self) -> float:
        """Inferences a second times training passes a second. A way that doubles one and halves the other is no better, and to starve a side is worst."""
        return self.passes / self.inference_s

    def __str__(self) -> str:
        return f"{1000 * self.inference_s:.2f} ms for an inference and {self.passes:.1f} training passes a second"


def better(lanes: Speeds, processes: Speeds) -> Share:
    """The way with the higher score."""
    return "lanes" if lanes.score > MARGIN * processes.score else "processes"


def shared_gpu(recipe: Recipe, devices: Path = Path("/dev")) -> str | None:
    """The GPU that the first generator and the first rank both use, as the settings say. None if each has a device of its own, or if this machine has no GPU.

    It asks no driver: where torch cannot use the GPU, both use the CPU after all. devices: the folder of the machine's devices.
    """
    inference, training = (_first_gpu(setting) for setting in (recipe.engine.device, recipe.training.device))
    if recipe.runtime != "local" or inference != training or not has_gpu(devices):
        return None
    return inference


def is_open(recipe: Recipe) -> bool:
    """Whether both ways are possible and the choice matters: rollout and training work at the same time, and lanes would not be refused."""
    engine = recipe.engine
    return engine.share == "auto" and engine.overlaps and not engine.offload and engine.threads == recipe.training.threads


def _first_gpu(setting: str) -> str | None:
    return None if setting == "cpu" else {"auto": "cuda:0", "cuda": "cuda:0"}.get(setting, setting)
