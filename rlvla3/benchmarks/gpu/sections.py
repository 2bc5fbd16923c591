"""The sections of `rlvla3 bench gpu`, in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlvla3.benchmarks.gpu.sizes import Sizes

TINY_SHARE = 0.1
"""At tiny size a section needs this share of its least time."""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the measurement.

    title: for the terminal. importance: 1 is the highest; where time is short, the least important sections are left out. weight: how much of the remaining
    time it gets, in relation to the weights of the sections that follow. least_s: with fewer seconds on a GPU it is not run. body: "module:function", which is
    given a sheet (None: `measure` in the module of this package with the section's name).
    """

    name: str
    title: str
    importance: int
    weight: float
    least_s: float
    body: str | None = None

    def least(self, sizes: Sizes) -> float:
        """The least seconds that it needs at these sizes."""
        return self.least_s * (1.0 if sizes.on_gpu else TINY_SHARE)


# What a section leaves of its time goes to those after it. The first one may need long to import torch from a cold disk, and leaves the rest.
SECTIONS: Sequence[Section] = (
    Section("machine", "The machine", importance=1, weight=20, least_s=5),
    Section("limits", "Limits of the device", importance=1, weight=7, least_s=10),
    Section("inference", "Inference by batch size", importance=3, weight=15, least_s=30),
    Section("training", "Training by micro-batch", importance=4, weight=14, least_s=30),
    Section("publication", "Publication of weights", importance=6, weight=7, least_s=16),
    Section("modes", "The four modes", importance=2, weight=36, least_s=80),
    Section("checks", "Tests that need a GPU", importance=5, weight=12, least_s=40),
    Section("rehearsal", "Rehearsed and measured", importance=7, weight=20, least_s=75),
)


def seconds_for(section: Section, rest: Sequence[Section], left: float, sizes: Sizes) -> float | None:
    """How many of the `left` seconds a section gets. None: too few, it is not run.

    rest: the sections after it. Those that matter more keep their least time. Of what remains, the section gets its share by weight.
    """
    kept = sum(other.least(sizes) for other in rest if other.importance < section.importance)
    least, most = section.least(sizes), left - kept
    if most < least:
        return None
    share = left * section.weight / (section.weight + sum(other.weight for other in rest))
    return min(max(share, least), most)
