"""What goes wrong in a virtual run, and when."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

What = Literal["shard dies", "shard hangs", "shard is slow", "generator dies", "trainer stalls", "ticket kills its shard"]


@dataclass(frozen=True, slots=True)
class Fault:
    """at: seconds since the run began. which: the worker's number, modulo how many there are; or the number of a ticket that kills every shard that begins it
    from then on. severity: seconds of a stall, or how many times slower."""

    at: float
    what: What
    which: int = 0
    severity: float = 100.0


def draw_faults(seed: int, count: int, within: float) -> list[Fault]:
    """`count` faults of all kinds of workers in the first `within` seconds."""
    drawn = random.Random(seed)
    kinds: list[What] = ["shard dies", "shard hangs", "shard is slow", "generator dies", "trainer stalls"]
    return [Fault(drawn.random() * within, drawn.choice(kinds), drawn.randrange(1000), drawn.choice([2.0, 10.0, 100.0])) for _ in range(count)]
