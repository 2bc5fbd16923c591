"""From measurements to a profile: which measurement becomes which cost.

Invariant: every CPU second of every worker is in exactly one cost. A worker also works between its calls, in its loop and in the links. This work of a shard
belongs to `turn` when the shard wakes up, and to `simulate` otherwise; that of a generator belongs to `dispatch`, that of the trainer to `train`. A decision
also takes wall time in which no worker works: the wake-ups of the processes. This is waiting in `turn`, because it delays only the shard.
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
import torch

from rlvla3.config import DelayConfig, Recipe
from rlvla3.devices import choose_device
from rlvla3.errors import RecipeError
from rlvla3.observability.meter import IDLE
from rlvla3.observability.sampling import SCHEDSTAT, seconds_asleep
from rlvla3.planning.profiles import check_single_simulator
from rlvla3.planning.profiling.contention import core_speeds
from rlvla3.planning.profiling.cost_fitting import MIN_SIZE_RATIO, WAIT_DECIMALS, cost_of, fit_cost, per_call, relative_durations, rounded, spread_of
from rlvla3.planning.profiling.device_memory import device_memory
from rlvla3.planning.profiling.measuring import PARTS, MeasuredRuns, in_mode, measure, settled
from rlvla3.policies.registry import make_policy, policy_options
from rlvla3.runtimes.virtual.costs import Cost, HostProfile, On, Profile
from rlvla3.simulators.description import described
from rlvla3.types import decision_layout, observation_layout

MAX_LENGTHS = 200
"""The most episode lengths in a profile. They are equally likely."""

BETWEEN_CALLS = ("overhead", *IDLE)
"""The stages in which a worker is between its calls. Its work in them is that of its loop and of the links."""


def profile_of(recipe: Recipe, name: str, seconds: float, notify: Callable[[str], None]) -> Profile:
    """Measure the stages of `recipe` on this machine. It takes about `seconds`, and the time to start the processes.

    The recipe must have passed preflight. The policy has the weights that the recipe starts from: policy.checkpoint, or untrained ones.
    Delays on purpose (`simulator.delay`) are left out, because a rehearsal adds those of its own recipe.
    Raises RecipeError if this system cannot measure, or if the recipe mixes simulators or has one in another interpreter.
    """
    check_single_simulator(recipe)
    recipe = recipe.model_copy(update={"simulator": recipe.simulator.model_copy(update={"delay": DelayConfig()})})
    if not SCHEDSTAT.exists():
        raise RecipeError(f"this system does not report waiting times of processes: a profile can only be measured on Linux, with {SCHEDSTAT}")
    if recipe.simulator.python:
        raise RecipeError(
            f"simulator.python={recipe.simulator.python}, and a profile is measured in processes that simulate, infer and train at once, in rlvla3's own "
            f"interpreter: install the simulator there, and add simulator.python= to the command"
        )
    with tempfile.TemporaryDirectory(prefix="rlvla3-profile-") as scratch:
        measured = measure(recipe, Path(scratch), seconds, notify)
        single = measured.alone.with_at_once(1)
        simulate = cost_of(single.of("shard", "simulate"), "cores")
        simulates = simulate.work(1) > simulate.waits
        cores = core_speeds(in_mode(settled(recipe), "sync"), Path(scratch) / "loads", seconds / PARTS, simulates, notify)
    return assemble(recipe, name, measured, cores).model_copy(update={"memory": device_memory(settled(recipe))})


def assemble(recipe: Recipe, name: str, measured: MeasuredRuns, cores: list[float]) -> Profile:
    """Make the profile from the measurements."""
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
        train=cost_of(accumulated, training, around=per_call(updates.of("trainer", *BETWEEN_CALLS), int((updates.of("trainer", "train")["size"] > 0).sum()))),
        step=cost_of(stepped, training),
        fit=fit_cost(fits, lockstep.decisions, kept, training),
        load=cost_of(counts["load"], inferring),
        publish=cost_of(counts["publish"], training),
        transfer=transfer,
        weights=weights,
        host=HostProfile(cores=cores),
    )


def _simulate(measured: MeasuredRuns) -> Cost:
    """The cost of `simulate` for one environment and for all slots of a shard, with the work of the shard's loop.

    The work is measured with one shard alone, because shared cores would slow it. How long a call sleeps, and how calls differ, is the same in all runs, so all
    runs are used: a worker that waits for the slowest of many environments waits for the tail of the distribution, and the tail needs many calls.
    """
    alone, single = measured.alone, measured.alone.with_at_once(1)
    stepped = reduce(add, [alone.with_at_once(count) for count in alone.at_once]).of("shard", "simulate")
    around = per_call(single.of("shard", "overhead"), len(single.of("shard", "simulate")))
    everywhere = [part for run in (alone, measured.lockstep) for count in run.at_once if len(part := run.with_at_once(count).of("shard", "simulate"))]
    asleep = round(float(seconds_asleep(np.concatenate(everywhere)).mean()), WAIT_DECIMALS)
    return cost_of(stepped, "cores", around).model_copy(
        update={"waits": asleep, "spread": spread_of(np.concatenate([relative_durations(part) for part in everywhere]))}
    )


def _turn(measured: MeasuredRuns) -> Cost:
    """The work of a shard when it wakes up. waits: the time of a decision in which no worker works."""
    single = measured.alone.with_at_once(1)
    infers, asked = single.of("generator", "infer"), single.of("shard", "decision")
    answer = float((infers["wall"] - infers["delay"]).mean()) + per_call(single.of("generator", *BETWEEN_CALLS), len(infers))
    asleep = seconds_asleep(asked)[asked["wall"] > answer / 2]  # the loop also asks when it has no observation; these calls are short and no decisions
    wakeups = max(float(asleep.mean()) - answer, 0.0) if len(asleep) else 0.0
    work = per_call(single.of("shard", *IDLE), len(single.of("shard", "simulate")))
    return Cost(on="cores", sizes=[0.0, 1.0], seconds=rounded([work, work]), waits=round(wakeups, WAIT_DECIMALS))  # the shard wakes up once for all its slots


def _dispatch(measured: MeasuredRuns) -> Cost:
    """The work of a generator's loop for a batch of one request and for a batch of all requests."""
    points = []
    for samples in (measured.alone.with_at_once(1), measured.lockstep.with_at_once(max(measured.lockstep.at_once))):
        infers = samples.of("generator", "infer")
        points.append((float(infers["size"].mean()), per_call(samples.of("generator", *BETWEEN_CALLS), len(infers))))
    (few, lighter), (many, heavier) = points
    sizes, seconds = ([few, many], [lighter, heavier]) if many >= few * MIN_SIZE_RATIO else ([0.0, 1.0], [heavier, heavier])
    return Cost(on="cores", sizes=rounded(sizes), seconds=rounded(seconds))


def _hand_in(measured: MeasuredRuns) -> Cost:
    """The coordinator's work for an episode. waits: how much longer than that the shard waits."""
    single = measured.alone.with_at_once(1)
    waited = float(seconds_asleep(single.of("shard", "ticket")).sum()) / max(len(single.of("shard", "reset")), 1)
    work = measured.alone.coordinator
    return Cost(on="cores", seconds=rounded([work]), waits=round(max(waited - work, 0.0), WAIT_DECIMALS))


def lengths(steps: Sequence[int]) -> list[int]:
    """At most MAX_LENGTHS episode lengths with the same distribution as `steps`."""
    if len(set(steps)) == 1:
        return [steps[0]]
    places = np.linspace(0, len(steps) - 1, min(len(steps), MAX_LENGTHS)).round().astype(int)
    return [int(length) for length in np.sort(steps)[places]]


def _lane(device: str, key: str) -> On:
    """The lane of a stage that runs on `device`: the device's compute, or the cores if the device is the CPU."""
    return "compute" if choose_device(device, key).type == "cuda" else "cores"


def _sizes(recipe: Recipe) -> tuple[float, float]:
    """The bytes of a version of the weights, and the bytes of an observation with its decision."""
    spaces = described(recipe.simulator).spaces
    published = make_policy(recipe.policy, spaces).published().values()
    trace = policy_options(recipe.policy, spaces).trace(spaces, recipe.policy.chunk)
    layout = observation_layout(spaces) | decision_layout(spaces.action.size, recipe.policy.chunk, trace)
    return float(sum(tensor.nbytes for tensor in published)), float(sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in layout.values()))


def _source(recipe: Recipe, samples: Mapping[str, int]) -> str:
    """The profile's `source`: the machine, the recipe and the number of samples."""
    simulator, policy = recipe.simulator, recipe.policy
    tasks = f" ({', '.join(simulator.tasks)})" if simulator.tasks else ""
    start = f"weights of {policy.checkpoint}" if policy.checkpoint else "untrained weights"
    return (
        f"measured by rlvla3 profile: {simulator.name}{tasks}, {simulator.shards} x {simulator.slots} environments, {policy.name} with {start}; "
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {_gpu(recipe)}torch {version('torch')}; "
        f"samples: {', '.join(f'{stage} {count}' for stage, count in samples.items())}"
    )


def _gpu(recipe: Recipe) -> str:
    """The name of the GPU that infers, with a comma. Empty where there is none."""
    device = choose_device(recipe.engine.device, "engine.device")
    return f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""


def _processor() -> str:
    """The model name of the CPU, from /proc/cpuinfo."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
