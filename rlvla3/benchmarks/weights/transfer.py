"""How fast versions go: on this host against a plain memory copy, to another host against a bare gloo broadcast. All in turn, in one run.

Both hosts are this machine, so what crosses between them is copied by its kernel: the link is as fast as a link can be, and what the plane adds shows most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from rlvla3.benchmarks.weights.other import Other, other_process
from rlvla3.choices import CarrierName
from rlvla3.links.weights.plane import WeightPlane

ROUNDS, WARMUP = 15, 3
LAYER_BYTES = 4 << 20
CARRIERS: tuple[CarrierName, ...] = ("tcp", "gloo")
"""Those that run on any machine: NCCL takes a device for either process."""


def layers(megabytes: int) -> dict[str, Tensor]:
    """float32 matrices of 4 MiB each and one for what is left over, of `megabytes` million bytes in all."""
    count, rest = divmod(megabytes * 10**6, LAYER_BYTES)
    return {f"layer {number}": torch.rand(size // 4096, 1024) for number, size in enumerate([LAYER_BYTES] * count + [rest])}


def measure_transfers(megabytes: int) -> dict[str, Any]:
    """Medians over ROUNDS, in GB/s and as ratios."""
    parts = partial(layers, megabytes)
    with other_process(parts, CARRIERS) as other:
        seconds = _rounds(other, parts())
    return figures(megabytes * 10**6, {name: median(times[WARMUP:]) for name, times in seconds.items()})


def _rounds(other: Other, tensors: Mapping[str, Tensor]) -> dict[str, list[float]]:
    plane = WeightPlane(other.memory, tensors)
    source, target = (torch.ones(plane.size, dtype=torch.uint8) for _ in range(2))
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, *calls: Callable[[], object]) -> None:
        began = perf_counter()
        for call in calls:
            call()
        seconds[name].append(perf_counter() - began)

    for number in range(WARMUP + ROUNDS):
        timed("copy", lambda: target.copy_(source))
        timed("publish", partial(plane.publish, 2 * number))
        timed("load", other.load)
        timed("publish_and_load", partial(plane.publish, 2 * number + 1), other.load)
        timed("gloo", lambda: other.broadcast(source))
        for carrier in CARRIERS:
            timed(f"between_hosts_{carrier}", partial(other.arrive, carrier))
    return seconds


def figures(size: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Publishing copies the bytes once, loading them once more, and so does each of what they are compared with."""
    copy, both = seconds["copy"], seconds["publish_and_load"]
    return {
        "bytes": size,
        "gb_per_second": {name: size / spent / 1e9 for name, spent in seconds.items()},
        "same_host": {
            "publish_to_copy": copy / seconds["publish"],
            "load_to_copy": copy / seconds["load"],
            "publish_and_load_to_two_copies": 2 * copy / both,
        },
        "between_hosts": {f"{carrier}_to_gloo_broadcast": seconds["gloo"] / seconds[f"between_hosts_{carrier}"] for carrier in CARRIERS},
    }
