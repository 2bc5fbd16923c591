"""The short runs from which a profile is made. They use the local runtime itself, with meters that take samples.

ONE ENVIRONMENT AT A TIME: one shard, in lock-step. Nothing else runs while the simulator steps, so this shows what a step costs alone, and how its duration is
distributed. The rest of the wall time is inference, hand-in and the messages for them.
IN LOCK-STEP: all shards, with 1, 2, 4, ... episodes at once, then a few updates. All workers wait for an inference or a micro-batch, so nothing else runs
beside it. This shows what these cost alone, but with the caches and the wake-ups of a real run.
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
from rlvla3.observability.sampling import Samples, SamplingBoard, seconds_per_sample
from rlvla3.parts import endless_ledger, profiling_book
from rlvla3.planning.profiling.cost_fitting import powers_of_two_up_to
from rlvla3.runtimes.local import LocalRuntime
from rlvla3.types import Finished

UPDATES = 3
"""The least number of updates. The first one is left out: it may train no actor, because some advantages are normalised with earlier updates, and torch is not
yet at its full speed."""

FEW_EPISODES = 4
"""The least number of episodes per update with one environment, enough for one or two micro-batches."""

PARTS = 4
"""The time is divided into so many equal parts: one environment (half episodes, half updates), sizes of inference, updates in lock-step, busy cores."""

ENDLESS = 10**9
TINY_LEARNING_RATE = 1e-12


@dataclass(frozen=True, slots=True)
class MeasuredEpisode:
    """One episode: its environment steps, its decisions, and whether a time limit ended it."""

    steps: int
    decisions: int
    truncated: bool


@dataclass(slots=True)
class MeasuredRun:
    """The measurements of one run.

    at_once: the number of episodes at once -> begin and end of that part, on the monotonic clock. updating: begin and end of the updates after the first.
    episodes: the episodes of the updates, which explore. coordinator: CPU seconds of this process per episode, with one episode at once. decisions: of each
    update.
    """

    samples: Samples = field(default_factory=lambda: Samples({}))
    episodes: list[MeasuredEpisode] = field(default_factory=list)
    at_once: dict[int, tuple[float, float]] = field(default_factory=dict)
    updating: tuple[float, float] = (0.0, 0.0)
    coordinator: float = 0.0
    decisions: list[int] = field(default_factory=list)

    def with_at_once(self, count: int) -> Samples:
        """The samples from the part in which `count` episodes ran at once."""
        return self.samples.during(*self.at_once[count])

    def of_updates(self) -> Samples:
        return self.samples.during(*self.updating)


@dataclass(frozen=True, slots=True)
class MeasuredRuns:
    """The two runs of a recipe: one environment at a time, and in lock-step."""

    alone: MeasuredRun
    lockstep: MeasuredRun


def settled(recipe: Recipe, **changes: Mapping[str, Any]) -> Recipe:
    """`recipe` as a settled run without an end: no cloning, no warm-up of the critic, every epoch of every group, no checkpoints.

    The learning rate is so small that the weights stay as they are: an actor that learns would change the length of its episodes. changes: sections that are
    merged into the recipe.
    """
    tree = recipe.model_dump(mode="json") | {"clone": None}
    training = tree["training"]
    endless = {
        "training": {"updates": ENDLESS, "learning_rate": TINY_LEARNING_RATE, "checkpoint_every": ENDLESS, "critic": training["critic"] | {"warmup": 0}},
        "algorithm": {"kl_stop": None, "filter_groups": False},
        "engine": {"record": False, "share": "processes"},  # a sample counts the CPU time of a process, so each worker needs its own
    }
    for sections in (endless, changes):
        for section, settings in sections.items():
            tree[section] = tree[section] | dict(settings)
    return make_recipe(tree)


def in_mode(recipe: Recipe, mode: str) -> Recipe:
    """`recipe` with the preset of `mode` and no engine settings that differ from it."""
    engine = recipe.engine.model_dump(mode="json", include={"generators", "device", "threads", "max_restarts", "record", "share"})
    return make_recipe(recipe.model_dump(mode="json") | {"engine": engine | {"mode": mode}})


def measure(recipe: Recipe, scratch: Path, seconds: float, notify: Callable[[str], None]) -> MeasuredRuns:
    """Make both runs. They take about 3/4 of `seconds`, and the time to start their processes."""
    part = seconds / PARTS
    lockstep = in_mode(settled(recipe, engine={"generators": 1, "elastic": None}), "sync")
    group, simulator = recipe.algorithm.group_size, recipe.simulator
    few = {"batch": -(-FEW_EPISODES // group) * group, "steps": 1, "micro_batch": max(recipe.training.micro_batch // 4, 1)}
    single = settled(lockstep, simulator={"shards": 1}, training=few)
    notify("one environment at a time")
    alone = asyncio.run(_run(single, scratch / "alone", sorted({1, simulator.slots}), part / 2, part / 2, notify))
    notify(f"{simulator.shards * simulator.slots} environments in lock-step")
    sizes = list(powers_of_two_up_to(simulator.shards * simulator.slots))
    return MeasuredRuns(alone, asyncio.run(_run(lockstep, scratch / "lockstep", sizes, part, part, notify)))


async def _run(recipe: Recipe, folder: Path, sizes: Sequence[int], collecting: float, updating: float, notify: Callable[[str], None]) -> MeasuredRun:
    """Run episodes with each of `sizes` at once, for `collecting` seconds in all, then make updates for `updating` seconds."""
    directory, noting = RunDirectory.create(folder, recipe), seconds_per_sample(folder.parent)
    room = max(2 * recipe.training.batch, *sizes)  # twice, because an update's episodes are read after those of the next update have begun
    run = MeasuredRun()
    async with LocalRuntime(recipe, directory, capacity=room, notify=notify, board=partial(SamplingBoard, folder=folder)) as runtime:
        await runtime.guard(runtime.ready())
        for size in sizes:
            await runtime.guard(_collect(runtime, recipe, run, size, collecting / len(sizes)))
        await runtime.guard(_update(runtime, recipe, run, updating))
    run.samples = Samples.read(folder).without_overhead(noting)
    return run


async def _collect(runtime: LocalRuntime, recipe: Recipe, run: MeasuredRun, size: int, seconds: float) -> None:
    """Run episodes, `size` at once. The first round of `size` episodes is not measured; at least one more round is run."""
    book = profiling_book(recipe, runtime.rollouts.spec.spaces)
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


async def _update(runtime: LocalRuntime, recipe: Recipe, run: MeasuredRun, seconds: float) -> None:
    ledger = endless_ledger(recipe, runtime.rollouts.spec.spaces)
    async for published, episodes in runtime.train(ledger, end=recipe.training.updates):
        run.episodes += [_episode(runtime, episode) for episode in episodes]
        run.decisions.append(sum(episode.decisions for episode in episodes))
        if published.version == 1:
            began = time.monotonic()
        elif published.version >= UPDATES and time.monotonic() - began >= seconds:
            break
    run.updating = (began, time.monotonic())


def _episode(runtime: LocalRuntime, finished: Finished) -> MeasuredEpisode:
    terminated = bool(runtime.rollouts.about(finished.ticket.index, "terminated"))
    return MeasuredEpisode(finished.steps, finished.decisions, not terminated)
