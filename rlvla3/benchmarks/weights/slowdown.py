"""What publishing costs training: updates of a small VLA, every other one while a generator and another host take the version published before."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from rlvla3.benchmarks.weights.other import Other, other_process
from rlvla3.benchmarks.weights.transfer import layers
from rlvla3.config import PolicyConfig
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.policies.base import Observations
from rlvla3.policies.registry import make_policy
from rlvla3.types import ActionSpace, Spaces

PAIRS, WARMUP = 10, 1
STEPS, BATCH = 6, 64
"""Optimizer steps an update, decisions a step. An update takes about a second on a core, where the quickstart's take ten: publications weigh more here."""

SPACES = Spaces(cameras={"front": (64, 64, 3)}, state=4, action=ActionSpace("continuous", 4), max_steps=100)
CONFIG = PolicyConfig(name="mini_vla", chunk=5)


def version_parts(megabytes: int) -> dict[str, Tensor]:
    """A mini VLA's weights, and as much beside them as makes `megabytes` in all."""
    published = make_policy(CONFIG, SPACES).published()
    size = sum(tensor.numel() * tensor.element_size() for tensor in published.values()) // 10**6
    return published | layers(max(megabytes - size, 0))


def measure_slowdown(megabytes: int) -> dict[str, Any]:
    with other_process(partial(version_parts, megabytes)) as other:
        plain, publishing = _pairs(other, version_parts(megabytes), _trainer())
    return {
        "bytes": megabytes * 10**6,
        "seconds_an_update": median(plain),
        "seconds_an_update_with_publication": median(publishing),
        "slowdown": median(with_it / without - 1 for with_it, without in zip(publishing, plain, strict=True)),
        "pairs": [[round(without, 4), round(with_it, 4)] for without, with_it in zip(plain, publishing, strict=True)],
    }


def _pairs(other: Other, tensors: dict[str, Tensor], update: Callable[[], None]) -> tuple[list[float], list[float]]:
    """Seconds of updates without a publication and with one, which is made before the update and has been taken by everybody before the next."""
    plane = WeightPlane(other.memory, tensors)

    def plain() -> float:
        began = perf_counter()
        update()
        return perf_counter() - began

    def publishing(version: int) -> float:
        began = perf_counter()
        plane.publish(version, then=other.announce)
        other.begin_to_load()
        update()
        spent = perf_counter() - began
        other.finish()
        other.arrived()
        return spent

    pairs = []
    for number in range(WARMUP + PAIRS):
        # Which is first alternates: a machine that gets slower or faster meanwhile favours neither.
        if number % 2:
            without = plain()
            pairs.append((without, publishing(number)))
        else:
            with_it = publishing(number)
            pairs.append((plain(), with_it))
    plains, withs = zip(*pairs[WARMUP:], strict=True)
    return list(plains), list(withs)


def _trainer() -> Callable[[], None]:
    """A mini VLA's update, by the loss of cloning: a forward and a backward pass as any other loss has."""
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
