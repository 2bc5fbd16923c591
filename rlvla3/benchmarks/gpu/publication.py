"""How fast new weights leave the trainer, and how fast a generator in another process has them (links/weights/plane.py).

held: how long the trainer waits until its weights may change again. publish: until the version is on the weight plane. load: until a generator has copied it.
Each is measured for the ways in which a version can lie on a host (weights.on_host).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from statistics import median

from torch import Tensor

from rlvla3.benchmarks.gpu.sheet import Sheet
from rlvla3.benchmarks.weights.second_process import SecondProcess, second_process
from rlvla3.benchmarks.weights.transfer import layers
from rlvla3.choices import OnHost
from rlvla3.links.weights.plane import WeightPlane

ROUNDS, WARMUP = 5, 1

SECONDS_A_VERSION = 8.0
"""About how long a size takes to measure, most of it the start of the other process."""


def measure(sheet: Sheet) -> None:
    """Measure each size in each way."""
    ways: Sequence[OnHost] = ("shared_memory", "cuda_ipc") if sheet.sizes.on_gpu else ("shared_memory",)
    for megabytes in sheet.sizes.megabytes:
        for on_host in ways:
            if sheet.time_for(f"{megabytes} MB, {on_host}", SECONDS_A_VERSION if sheet.sizes.on_gpu else 0):
                _measure_version(sheet, megabytes, on_host)


def weights_on(device: str, megabytes: int) -> dict[str, Tensor]:
    """float32 matrices on the device, with `megabytes` million bytes in all."""
    return {name: tensor.to(device) for name, tensor in layers(megabytes).items()}


def _measure_version(sheet: Sheet, megabytes: int, on_host: OnHost) -> None:
    """Versions are published and loaded alternately."""
    make_tensors = partial(weights_on, sheet.sizes.device, megabytes)
    with second_process(make_tensors, carriers=(), on_host=on_host) as second:
        plane = WeightPlane(second.memory, make_tensors(), on_host=on_host)
        rounds = [_round(plane, second, version) for version in range(WARMUP + ROUNDS)][WARMUP:]
    held, published, loaded = (median(seconds) for seconds in zip(*rounds, strict=True))
    figures = {"held_ms": 1000 * held, "publish_ms": 1000 * published, "load_ms": 1000 * loaded}
    rates = {"publish_gb_per_s": plane.size / published / 1e9, "load_gb_per_s": plane.size / loaded / 1e9}
    sheet.write(f"{megabytes} MB", on_host, **figures, **rates)


def _round(plane: WeightPlane, second: SecondProcess, version: int) -> tuple[float, float, float]:
    """Seconds that the trainer was held, until the version was published, and that loading took."""
    began = time.perf_counter()
    plane.publish(version, then=lambda: None)
    held = time.perf_counter()
    plane.finish()
    published = time.perf_counter()
    second.load()
    return held - began, published - began, time.perf_counter() - published
