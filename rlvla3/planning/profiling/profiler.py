"""From measurements to a profile: which figure is which cost.

Every CPU second of every worker is in one of them. What a worker does between its stages, its loop and the links, is work too: a shard's goes to `turn` where
it wakes up and to `simulate` where it goes on, a generator's to `dispatch`, the trainer's to `train`. The wall time of a decision that nobody works in, the
wake-ups on the way there and back, is waiting in `turn`, as it holds nobody up but the shard.
"""

from __future__ import annotations

import math
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from importlib.metadata import version
from operator import add
from pathlib import Path
from statistics import fmean

import numpy as np

from rlvla3.config import Recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.meter import IDLE
from rlvla3.observability.sampling import SCHEDSTAT, slept
from rlvla3.planning.profiles import check_alone
from rlvla3.planning.profiling.contention import core_speeds
from rlvla3.planning.profiling.figures import APART, MICRO, cost_of, differences, fit_cost, per_call, rounded, spread_of
from rlvla3.planning.profiling.measuring import PARTS, Measured, in_mode, measure, settled
from rlvla3.policies.registry import make_policy, policy_options
from rlvla3.runtimes.virtual.costs import Cost, HostProfile, On, Profile
from rlvla3.runtimes.workers.device import choose_device
from rlvla3.simulators.registry import describe_simulator
from rlvla3.types import decision_layout, observation_layout

LENGTHS = 200
"""Episode lengths that are kept, equally likely."""

AROUND = ("overhead", *IDLE)
"""Stages in which a worker is between its calls: what it works there, its loop and the links do."""


def profile_of(recipe: Recipe, name: str, seconds: float, notify: Callable[[str], None]) -> Profile:
    """Measure the stages of `recipe`, which preflight has found good, on this machine, in about `seconds` and what the processes take to start.

    From the weights that the recipe starts from: policy.checkpoint, or untrained ones. Raises RecipeError where nothing can be measured.
    """
    check_alone(recipe)
    if not SCHEDSTAT.exists():
        raise RecipeError(f"this system does not tell work from waiting: a profile is measured on Linux, with {SCHEDSTAT}")
    with tempfile.TemporaryDirectory(prefix="rlvla3-profile-") as scratch:
        measured = measure(recipe, Path(scratch), seconds, notify)
        single = measured.alone.with_at_once(1)
        simulate = cost_of(single.of("shard", "simulate"), "cores")
        simulates = simulate.work(1) > simulate.waits
        cores = core_speeds(in_mode(settled(recipe), "sync"), Path(scratch) / "loads", seconds / PARTS, simulates, notify)
    return assemble(recipe, name, measured, cores)


def assemble(recipe: Recipe, name: str, measured: Measured, cores: list[float]) -> Profile:
    """The profile that measurements come to."""
    alone, lockstep, single = measured.alone, measured.lockstep, measured.alone.with_at_once(1)
    inferring, training = (_lane(*device) for device in ((recipe.engine.device, "engine.device"), (recipe.training.device, "training.device")))
    inference = reduce(add, [lockstep.with_at_once(count) for count in lockstep.at_once])
    updates, trainer = lockstep.of_updates(), (lockstep.of_updates() + alone.of_updates()).of("trainer", "train")
    accumulated, stepped = trainer[trainer["size"] > 0], trainer[trainer["size"] == 0]
    episodes = [episode for run in (alone, lockstep) for episode in run.episodes]
    fits = lockstep.samples.of("trainer", "fit_critic")
    kept = recipe.training.critic.replay if recipe.training.critic.epochs and recipe.algorithm.has_critic else 1
    weights, transfer = _sizes(recipe)
    counts = {
        "simulate": single.of("shard", "simulate"),
        "reset": single.of("shard", "reset"),
        "infer": inference.of("generator", "infer"),
        "train": accumulated,
        "step": stepped,
        "load": updates.of("generator", "load_weights"),
        "publish": updates.of("trainer", "publish"),
    }
    return Profile(
        name=name,
        source=_source(recipe, {stage: len(samples) for stage, samples in counts.items()} | {"episodes": len(episodes)}),
        chunk=recipe.policy.chunk,
        episode_steps=lengths([episode.steps for episode in episodes]),
        truncated=float(fmean(episode.truncated for episode in episodes)),
        reset=cost_of(counts["reset"], "cores"),
        simulate=_simulate(measured),
        turn=_turn(measured),
        dispatch=_dispatch(measured),
        infer=cost_of(counts["infer"], inferring),
        hand_in=_hand_in(measured),
        train=cost_of(accumulated, training, around=per_call(updates.of("trainer", *AROUND), int((updates.of("trainer", "train")["size"] > 0).sum()))),
        step=cost_of(stepped, training),
        fit=fit_cost(fits, lockstep.decisions, kept, training),
        load=cost_of(counts["load"], inferring),
        publish=cost_of(counts["publish"], training),
        transfer=transfer,
        weights=weights,
        host=HostProfile(cores=cores),
    )


def _simulate(measured: Measured) -> Cost:
    """Of one environment alone, and of all slots of a shard; with what the shard's loop does about it.

    Work is that of one shard alone, as cores that are shared slow it. How long it sleeps and how calls differ is the same in every run, and takes many more
    calls to tell: who waits for the slowest of many waits for the tail.
    """
    alone, single = measured.alone, measured.alone.with_at_once(1)
    stepped = reduce(add, [alone.with_at_once(count) for count in alone.at_once]).of("shard", "simulate")
    around = per_call(single.of("shard", "overhead"), len(single.of("shard", "simulate")))
    everywhere = [part for run in (alone, measured.lockstep) for count in run.at_once if len(part := run.with_at_once(count).of("shard", "simulate"))]
    asleep = round(float(slept(np.concatenate(everywhere)).mean()), MICRO)
    return cost_of(stepped, "cores", around).model_copy(
        update={"waits": asleep, "spread": spread_of(np.concatenate([differences(part) for part in everywhere]))}
    )


def _turn(measured: Measured) -> Cost:
    """What a shard does when it wakes up, and how long the wake-ups of a decision take beside everybody's work."""
    single = measured.alone.with_at_once(1)
    infers, asked = single.of("generator", "infer"), single.of("shard", "decision")
    answer = float((infers["wall"] - infers["delay"]).mean()) + per_call(single.of("generator", *AROUND), len(infers))
    asleep = slept(asked)[asked["wall"] > answer / 2]  # an empty question, of which a loop asks many, is no decision
    wakeups = max(float(asleep.mean()) - answer, 0.0) if len(asleep) else 0.0
    work = per_call(single.of("shard", *IDLE), len(single.of("shard", "simulate")))
    return Cost(on="cores", sizes=[0.0, 1.0], seconds=rounded([work, work]), waits=round(wakeups, MICRO))  # it wakes up once, for all its slots


def _dispatch(measured: Measured) -> Cost:
    """What a generator's loop does about a batch, with one request and with all."""
    points = []
    for samples in (measured.alone.with_at_once(1), measured.lockstep.with_at_once(max(measured.lockstep.at_once))):
        infers = samples.of("generator", "infer")
        points.append((float(infers["size"].mean()), per_call(samples.of("generator", *AROUND), len(infers))))
    (few, lighter), (many, heavier) = points
    sizes, seconds = ([few, many], [lighter, heavier]) if many >= few * APART else ([0.0, 1.0], [heavier, heavier])
    return Cost(on="cores", sizes=rounded(sizes), seconds=rounded(seconds))


def _hand_in(measured: Measured) -> Cost:
    """The coordinator's work for an episode, and what its shard waits beyond that."""
    single = measured.alone.with_at_once(1)
    waited = float(slept(single.of("shard", "ticket")).sum()) / max(len(single.of("shard", "reset")), 1)
    work = measured.alone.coordinator
    return Cost(on="cores", seconds=rounded([work]), waits=round(max(waited - work, 0.0), MICRO))


def lengths(steps: Sequence[int]) -> list[int]:
    """At most LENGTHS episode lengths that are distributed as `steps` are."""
    if len(set(steps)) == 1:
        return [steps[0]]
    places = np.linspace(0, len(steps) - 1, min(len(steps), LENGTHS)).round().astype(int)
    return [int(length) for length in np.sort(steps)[places]]


def _lane(device: str, key: str) -> On:
    """What a stage works on that computes on a device."""
    return "compute" if choose_device(device, key).type == "cuda" else "cores"


def _sizes(recipe: Recipe) -> tuple[float, float]:
    """Bytes of a version of the weights, and of an observation with its decision."""
    spaces = describe_simulator(recipe.simulator)
    published = make_policy(recipe.policy, spaces).published().values()
    trace = policy_options(recipe.policy, spaces).trace(spaces, recipe.policy.chunk)
    layout = observation_layout(spaces) | decision_layout(spaces.action.size, recipe.policy.chunk, trace)
    return float(sum(tensor.nbytes for tensor in published)), float(sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in layout.values()))


def _source(recipe: Recipe, samples: Mapping[str, int]) -> str:
    """On what, with what, and how often it was measured."""
    simulator, policy = recipe.simulator, recipe.policy
    tasks = f" ({', '.join(simulator.tasks)})" if simulator.tasks else ""
    start = f"weights of {policy.checkpoint}" if policy.checkpoint else "untrained weights"
    return (
        f"measured by rlvla3 profile: {simulator.name}{tasks}, {simulator.shards} x {simulator.slots} environments, {policy.name} with {start}; "
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, torch {version('torch')}; "
        f"samples: {', '.join(f'{stage} {count}' for stage, count in samples.items())}"
    )


def _processor() -> str:
    """The model of the CPU, as Linux has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
