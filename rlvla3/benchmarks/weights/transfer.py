"""How fast versions move: on one host compared with a plain memory copy, between hosts compared with a bare gloo broadcast. All alternate in one run.

Both hosts are this machine, so its kernel copies what goes between them. No real link is faster, so this shows the overhead of the weight plane most clearly.
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

from rlvla3.benchmarks.weights.second_process import SecondProcess, second_process
from rlvla3.choices import CarrierName
from rlvla3.links.weights.plane import WeightPlane

ROUNDS, WARMUP = 15, 3
LAYER_BYTES = 4 << 20
CARRIERS: tuple[CarrierName, ...] = ("tcp", "gloo")
"""The carriers that run on every machine. NCCL needs a GPU for each process."""


def layers(megabytes: int) -> dict[str, Tensor]:
    """float32 matrices of 4 MiB each and a smaller one, with `megabytes` million bytes in all."""
    count, rest = divmod(megabytes * 10**6, LAYER_BYTES)
    return {f"layer {number}": torch.rand(size // 4096, 1024) for number, size in enumerate([LAYER_BYTES] * count + [rest])}


def measure_transfers(megabytes: int) -> dict[str, Any]:
    """Medians over ROUNDS, in GB/s and as ratios."""
    make_tensors = partial(layers, megabytes)
    with second_process(make_tensors, CARRIERS) as second:
        seconds = _rounds(second, make_tensors())
    return figures(megabytes * 10**6, {name: median(times[WARMUP:]) for name, times in seconds.items()})


def _rounds(second: SecondProcess, tensors: Mapping[str, Tensor]) -> dict[str, list[float]]:
    plane = WeightPlane(second.memory, tensors)
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
        timed("load", second.load)
        timed("publish_and_load", partial(plane.publish, 2 * number + 1), second.load)
        timed("gloo", lambda: second.broadcast(source))
        for carrier in CARRIERS:
            timed(f"between_hosts_{carrier}", partial(second.arrive, carrier))
    return seconds


def figures(size: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Speeds and ratios from the seconds of each measurement. Publishing copies the bytes once, and loading copies them once, like one memory copy each."""
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
