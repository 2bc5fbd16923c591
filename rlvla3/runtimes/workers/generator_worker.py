"""A generator process: it runs the generate loop over the data plane of its host."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from rlvla3.config import Recipe
from rlvla3.devices import choose_device, work_on
from rlvla3.errors import RecipeError
from rlvla3.inference.actor import Actor, make_actor
from rlvla3.links.data_plane import Batch, DataPlane, GeneratorPort
from rlvla3.links.replay_port import ReplayPort
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.loops import generate
from rlvla3.observability.meter import Meter, MeterBoard
from rlvla3.observability.run_record import RunRecord
from rlvla3.parts import make_limits
from rlvla3.policies.base import Policy
from rlvla3.policies.registry import make_policy
from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.processes.messages import (
    ForgetShard,
    LeaveDevice,
    LeftDevice,
    ProceedTo,
    Ready,
    ReplayStuck,
    ShardForgotten,
    VersionDone,
    WorkerNotice,
)
from rlvla3.runtimes.worker_names import generator_name, trainer_name
from rlvla3.runtimes.workers.bad_answer import keep_bad_answer
from rlvla3.runtimes.workers.device import check_on_host, generator_memory
from rlvla3.runtimes.workers.policy_engine import DataPlanePolicyEngine
from rlvla3.scheduling.recorded_run import RecordedRun
from rlvla3.training.offload import make_residence
from rlvla3.types import Version


async def run_generator(
    control: Control,
    generator: int,
    recipe: Recipe,
    plane: DataPlane,
    board: MeterBoard,
    memory: WeightMemory,
    record: RunRecord | RecordedRun | None,
    logs: Path,
) -> None:
    """Build the policy, report Ready, and decide until cancelled.

    record: where its inferences are recorded, or the recorded run that is repeated. logs: a folder for what reproduces a bad answer of the policy.
    """
    meter = board.meter(generator_name(generator))
    meter.enter("start")
    torch.set_num_threads(recipe.engine.threads)
    torch.manual_seed(recipe.seed)
    device = choose_device(recipe.engine.device, "engine.device", generator)
    work_on(device)
    check_on_host(recipe.weights.on_host, device, "engine.device")
    with generator_memory(recipe, generator, device).kept():
        policy = make_policy(recipe.policy, plane.rollouts.spec.spaces).eval()
        policy.compute_in(recipe.training.precision, device)
        residence = make_residence(recipe.engine.offload, device, lambda: chain(policy.parameters(), policy.buffers()), partial(meter, "offload"))
        residence.place(policy)
        weights = WeightPlane(memory, policy.published(), recipe.weights.dtype, recipe.weights.on_host)
        tell = partial(_tell, control)
        recorder = record.generator_writer(generator, tell) if isinstance(record, RunRecord) else None
        actor = _prepared(recipe, plane, policy, device, record, control)
        requests: GeneratorPort | ReplayPort
        if isinstance(record, RecordedRun):
            requests = _replayed(record, plane, meter, control)
        else:
            limits = make_limits(recipe.engine, _training_seconds(recipe, device, board))
            requests = _batched(GeneratorPort(plane, generator, limits, meter, take_in=control.poll), actor)
        noise = recipe.seed, policy.options.noise_shape(policy.spaces, policy.chunk)
        keep = partial(keep_bad_answer, logs, generator_name(generator), plane.rollouts, noise)
        engine = DataPlanePolicyEngine(actor, weights, plane.rollouts, recipe.seed, residence, meter, recorder, requests, keep)

        def forget(message: ForgetShard) -> None:
            requests.forget(message.shard)
            engine.forget()
            engine.when_written(lambda: control.send(ShardForgotten(message.shard)))

        def leave(_: LeaveDevice) -> None:
            residence.leave()
            control.send(LeftDevice())

        control.handle(ForgetShard, forget)
        control.handle(LeaveDevice, leave)
        control.send(Ready())
        meter.enter("overhead")
        await generate(requests, WantedWeights(weights), engine)


class WantedWeights:
    """Which version a batch wants."""

    def __init__(self, plane: WeightPlane) -> None:
        self._plane = plane

    def wanted(self, batch: Batch) -> Version:
        return self._plane.pinned if batch.beside else self._plane.newest


def _tell(control: Control, text: str) -> None:
    control.send(WorkerNotice(text))


def _prepared(recipe: Recipe, plane: DataPlane, policy: Policy, device: torch.device, record: RunRecord | RecordedRun | None, control: Control) -> Actor:
    """The policy, ready to act on its device. What is recorded or compiled is told to the user, and each size to the worker's log."""
    slots = sum(len(shard.slots) for shard in plane.shards)
    largest = record.largest if isinstance(record, RecordedRun) else min(recipe.engine.batch_limit or slots, slots)
    began = time.monotonic()
    actor = make_actor(policy, device, recipe.policy.inference, largest, recipe.engine.offload, tell=lambda text: print(text, flush=True))
    if isinstance(record, RecordedRun) and actor.largest < largest:
        raise RecipeError(
            f"the recorded run has a batch of {largest} decisions, and {device} has memory for {actor.largest} at once: repeat it on the device that it ran on"
        )
    for text in actor.notices:
        control.send(WorkerNotice(text))
    if actor.measured:
        shown = ", ".join(f"{size}: {1000 * seconds:.1f} ms" for size, seconds in actor.measured.items())
        control.send(WorkerNotice(f"policy.inference={actor.way} is ready after {time.monotonic() - began:.0f} s. Decisions at once: {shown}"))
    return actor


def _batched(port: GeneratorPort, actor: Actor) -> GeneratorPort:
    """The port, with what the actor has found about its device."""
    port.limit(actor.largest)
    for size, seconds in actor.measured.items():
        port.measured(size, seconds)
    return port


def _training_seconds(recipe: Recipe, device: torch.device, board: MeterBoard) -> Callable[[], float] | None:
    """Returns how long training has used the generator's GPU until now. None if no rank of this host has the same GPU."""
    trainer = trainer_name(0)
    if device.type != "cuda" or trainer not in board.workers or choose_device(recipe.training.device, "training.device") != device:
        return None
    return partial(board.busy_seconds, trainer)


def _replayed(replay: RecordedRun, plane: DataPlane, meter: Meter, control: Control) -> ReplayPort:
    port = ReplayPort(
        plane,
        replay,
        meter,
        take_in=control.poll,
        done=lambda: control.send(VersionDone()),
        stuck=lambda waiting, decision: control.send(ReplayStuck(waiting, *decision)),
    )
    control.handle(ProceedTo, lambda message: port.proceed(message.version))
    return port
