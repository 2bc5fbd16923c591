"""How much publishing slows training: updates of a small VLA. During every second update, a generator and another host load the version published before it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from rlvla3.benchmarks.weights.second_process import SecondProcess, second_process
from rlvla3.benchmarks.weights.transfer import layers
from rlvla3.config import PolicyConfig
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.policies.base import Observations
from rlvla3.policies.registry import make_policy
from rlvla3.types import ActionSpace, Spaces

PAIRS, WARMUP = 10, 1
STEPS, BATCH = 6, 64
"""Optimizer steps per update, and decisions per step. An update takes about a second on a core. The quickstart's take ten, so publishing slows them less."""

SPACES = Spaces(cameras={"front": (64, 64, 3)}, state=4, action=ActionSpace("continuous", 4), max_steps=100)
CONFIG = PolicyConfig(name="mini_vla", chunk=5)


def version_parts(megabytes: int) -> dict[str, Tensor]:
    """The weights of a mini VLA, and more tensors, so that all together have `megabytes` million bytes."""
    published = make_policy(CONFIG, SPACES).published()
    size = sum(tensor.numel() * tensor.element_size() for tensor in published.values()) // 10**6
    return published | layers(max(megabytes - size, 0))


def measure_slowdown(megabytes: int) -> dict[str, Any]:
    """Median seconds of updates without and with a publication, and the median of the slowdown in each pair."""
    with second_process(partial(version_parts, megabytes)) as second:
        plain, publishing = _pairs(second, version_parts(megabytes), _trainer())
    return {
        "bytes": megabytes * 10**6,
        "seconds_an_update": median(plain),
        "seconds_an_update_with_publication": median(publishing),
        "slowdown": median(with_it / without - 1 for with_it, without in zip(publishing, plain, strict=True)),
        "pairs": [[round(without, 4), round(with_it, 4)] for without, with_it in zip(plain, publishing, strict=True)],
    }


def _pairs(second: SecondProcess, tensors: dict[str, Tensor], update: Callable[[], None]) -> tuple[list[float], list[float]]:
    """The seconds of updates without and with a publication. It is made before the update, and it has arrived everywhere before the next update."""
    plane = WeightPlane(second.memory, tensors)

    def plain() -> float:
        began = perf_counter()
        update()
        return perf_counter() - began

    def publishing(version: int) -> float:
        began = perf_counter()
        plane.publish(version, then=second.announce)
        second.begin_to_load()
        update()
        spent = perf_counter() - began
        second.finish()
        second.arrived()
        return spent

    pairs = []
    for number in range(WARMUP + PAIRS):
        # The order alternates, so that a machine that becomes slower or faster favours neither.
        if number % 2:
            without = plain()
            pairs.append((without, publishing(number)))
        else:
            with_it = publishing(number)
            pairs.append((plain(), with_it))
    plains, withs = zip(*pairs[WARMUP:], strict=True)
    return list(plains), list(withs)


def _trainer() -> Callable[[], None]:
    """A function that makes one update of a mini VLA. It uses the cloning loss, which has a forward and a backward pass like any other loss."""
    policy = make_policy(CONFIG, SPACES)
    optimizer = torch.optim.AdamW(policy.actor_parameters(), lr=1e-4)
    noise = torch.Generator().manual_seed(0)
    images = {"front": torch.randint(256, (BATCH, 64, 64, 3), dtype=torch.uint8)}
    observations = Observations(images, torch.rand(BATCH, 4), torch.rand(BATCH), ["press the button"] * BATCH)
    actions = torch.rand(BATCH, CONFIG.chunk, 4)

    def update() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            policy.clone_loss(observations, actions, noise).backward()
            optimizer.step()

    return update
