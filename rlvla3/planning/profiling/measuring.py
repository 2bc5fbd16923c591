"""The short runs that a profile rests on: the local runtime itself, with meters that sample.

ONE ENVIRONMENT AT A TIME: one shard, in lock-step. Nothing goes on beside the simulator while it steps, so what it costs alone is seen, with its tail; and an
inference, a hand-in and their way there and back come to what is left of the wall time.
IN LOCK-STEP: all shards, with 1, 2, 4, ... episodes at once, then a few updates. Nothing goes on beside an inference or a micro-batch, as everybody waits for
it: so their costs are seen alone as well, but with the caches and the wake-ups of a real run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rlvla3.config import Recipe, make_recipe
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.sampling import Samples, SamplingBoard, seconds_a_sample
from rlvla3.parts import endless_ledger, profiling_book
from rlvla3.planning.profiling.figures import doublings
from rlvla3.runtimes.local import LocalRuntime
from rlvla3.types import Finished

UPDATES = 3
"""At least. The first trains no actor where advantages are normalised by what is known from earlier ones, and torch is not yet at its pace: it is left out."""

FEW_EPISODES = 4
"""Of an update with one environment: a micro-batch or two."""

PARTS = 4
"""Equal parts of the time: one environment (half episodes, half updates), sizes of inference, updates in lock-step, what cores do together."""

ENDLESS = 10**9
STANDSTILL = 1e-12


@dataclass(frozen=True, slots=True)
class Episode:
    """Its environment steps, its decisions, and whether a time limit cut it."""

    steps: int
    decisions: int
    truncated: bool


@dataclass(slots=True)
class Run:
    """What was seen of one run. Windows are moments of the monotonic clock: of episodes by how many ran at once, and of the updates after the first.

    episodes: those of updates, which explore. coordinator: CPU seconds of this process for each episode, with one at once. decisions: of each update.
    """

    samples: Samples = field(default_factory=lambda: Samples({}))
    episodes: list[Episode] = field(default_factory=list)
    at_once: dict[int, tuple[float, float]] = field(default_factory=dict)
    updating: tuple[float, float] = (0.0, 0.0)
    coordinator: float = 0.0
    decisions: list[int] = field(default_factory=list)

    def with_at_once(self, count: int) -> Samples:
        """The samples of when `count` episodes ran at once."""
        return self.samples.during(*self.at_once[count])

    def of_updates(self) -> Samples:
        return self.samples.during(*self.updating)


@dataclass(frozen=True, slots=True)
class Measured:
    """Both runs of a recipe."""

    alone: Run
    lockstep: Run


def settled(recipe: Recipe, **changes: Mapping[str, Any]) -> Recipe:
    """`recipe` as it goes on for ever: no cloning, no warm-up of the critic, every epoch of every group, no checkpoints; and with weights that stay as they
    are, as an actor that learns would change the length of its episodes. changes: sections that are merged over it.
    """
    tree = recipe.model_dump(mode="json") | {"clone": None}
    training = tree["training"]
    ever = {
        "training": {"updates": ENDLESS, "learning_rate": STANDSTILL, "checkpoint_every": ENDLESS, "critic": training["critic"] | {"warmup": 0}},
        "algorithm": {"kl_stop": None, "filter_groups": False},
        "engine": {"record": False},
    }
    for sections in (ever, changes):
        for section, settings in sections.items():
            tree[section] = tree[section] | dict(settings)
    return make_recipe(tree)


def in_mode(recipe: Recipe, mode: str) -> Recipe:
    """`recipe` with nothing but the preset of `mode`."""
    engine = recipe.engine.model_dump(mode="json", include={"generators", "device", "threads", "max_restarts", "record"})
    return make_recipe(recipe.model_dump(mode="json") | {"engine": engine | {"mode": mode}})


def measure(recipe: Recipe, scratch: Path, seconds: float, notify: Callable[[str], None]) -> Measured:
    """Make both runs, in about 3/4 of `seconds` and what their processes take to start."""
    part = seconds / PARTS
    lockstep = in_mode(settled(recipe, engine={"generators": 1, "elastic": None}), "sync")
    group, simulator = recipe.algorithm.group_size, recipe.simulator
    few = {"batch": -(-FEW_EPISODES // group) * group, "steps": 1, "micro_batch": max(recipe.training.micro_batch // 4, 1)}
    single = settled(lockstep, simulator={"shards": 1}, training=few)
    notify("one environment at a time")
    alone = asyncio.run(_run(single, scratch / "alone", sorted({1, simulator.slots}), part / 2, part / 2, notify))
    notify(f"{simulator.shards * simulator.slots} environments in lock-step")
    sizes = list(doublings(simulator.shards * simulator.slots))
    return Measured(alone, asyncio.run(_run(lockstep, scratch / "lockstep", sizes, part, part, notify)))


async def _run(recipe: Recipe, folder: Path, sizes: Sequence[int], collecting: float, updating: float, notify: Callable[[str], None]) -> Run:
    """Episodes with each of `sizes` at once, for `collecting` seconds in all, then updates for `updating` seconds."""
    directory, noting = RunDirectory.create(folder, recipe), seconds_a_sample(folder.parent)
    room = max(2 * recipe.training.batch, *sizes)  # twice: an update's episodes are looked at when those of the next have begun
    run = Run()
    async with LocalRuntime(recipe, directory, capacity=room, notify=notify, board=partial(SamplingBoard, folder=folder)) as runtime:
        await runtime.guard(runtime.ready())
        for size in sizes:
            await runtime.guard(_collect(runtime, recipe, run, size, collecting / len(sizes)))
        await runtime.guard(_update(runtime, recipe, run, updating))
    run.samples = Samples.read(folder).without(noting)
    return run


async def _collect(runtime: LocalRuntime, recipe: Recipe, run: Run, size: int, seconds: float) -> None:
    """Run episodes, `size` at once. The first round is left out; at least one more is run."""
    book = profiling_book(recipe)
    seen, began, spent = 0, 0.0, 0.0

    async def look_at(_: Finished) -> bool:
        nonlocal seen, began, spent
        seen += 1
        if seen == size:
            began, spent = time.monotonic(), time.process_time()
        return seen >= 2 * size and time.monotonic() - began >= seconds

    await runtime.collect(book, None, look_at, at_once=size)
    if size == 1:
        run.coordinator = (time.process_time() - spent) / (seen - size)
    run.at_once[size] = (began, time.monotonic())


async def _update(runtime: LocalRuntime, recipe: Recipe, run: Run, seconds: float) -> None:
    ledger = endless_ledger(recipe)
    async for published, episodes in runtime.train(ledger, end=recipe.training.updates):
        run.episodes += [_episode(runtime, episode) for episode in episodes]
        run.decisions.append(sum(episode.decisions for episode in episodes))
        if published.version == 1:
            began = time.monotonic()
        elif published.version >= UPDATES and time.monotonic() - began >= seconds:
            break
    run.updating = (began, time.monotonic())


def _episode(runtime: LocalRuntime, finished: Finished) -> Episode:
    terminated = bool(runtime.rollouts.about(finished.ticket.index, "terminated"))
    return Episode(finished.steps, finished.decisions, not terminated)
