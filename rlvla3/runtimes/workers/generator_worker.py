"""A generator process: it runs the generate loop over the data plane of its host."""

from __future__ import annotations

import time
from functools import partial
from itertools import chain

import torch

from rlvla3.config import Recipe
from rlvla3.links.data_plane import Batch, DataPlane, GeneratorPort
from rlvla3.links.replay_port import ReplayPort
from rlvla3.links.rollouts import Rollouts
from rlvla3.links.weights.plane import WeightPlane
from rlvla3.links.weights.versions import WeightMemory
from rlvla3.loops import generate
from rlvla3.observability.meter import Meter, MeterBoard
from rlvla3.observability.run_record import RecordWriter, RunRecord
from rlvla3.parts import max_wait_s
from rlvla3.policies.base import Policy
from rlvla3.policies.conversion import arrays_from, observations_from
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.registry import make_policy
from rlvla3.runtimes.processes.control import Control
from rlvla3.runtimes.processes.messages import ForgetShard, LeaveDevice, LeftDevice, ProceedTo, Ready, ReplayStuck, ShardForgotten, VersionDone
from rlvla3.runtimes.worker_names import generator_name
from rlvla3.runtimes.workers.device import check_on_host, choose_device, generator_memory
from rlvla3.scheduling.recorded_run import RecordedRun
from rlvla3.training.offload import Residence, make_residence


async def run_generator(
    control: Control,
    generator: int,
    recipe: Recipe,
    plane: DataPlane,
    board: MeterBoard,
    memory: WeightMemory,
    record: RunRecord | RecordedRun | None,
) -> None:
    """Build the policy, report Ready, and decide until cancelled. record: where its inferences are recorded, or the recorded run that is repeated."""
    meter = board.meter(generator_name(generator))
    meter.enter("start")
    torch.set_num_threads(recipe.engine.threads)
    torch.manual_seed(recipe.seed)
    device = choose_device(recipe.engine.device, "engine.device", generator)
    check_on_host(recipe.weights.on_host, device, "engine.device")
    with generator_memory(recipe, generator, device).kept():
        policy = make_policy(recipe.policy, plane.rollouts.spec.spaces).eval()
        residence = make_residence(recipe.engine.offload, device, lambda: chain(policy.parameters(), policy.buffers()), partial(meter, "offload"))
        residence.place(policy)
        weights = WeightPlane(memory, policy.published(), recipe.weights.dtype, recipe.weights.on_host)
        recorder = record.generator_writer(generator) if isinstance(record, RunRecord) else None
        if isinstance(record, RecordedRun):
            requests: GeneratorPort | ReplayPort = _replayed(record, plane, meter, control)
        else:
            requests = _batched(recipe, plane, generator, meter, control)

        def forget(message: ForgetShard) -> None:
            requests.forget(message.shard)
            control.send(ShardForgotten(message.shard))

        def leave(_: LeaveDevice) -> None:
            residence.leave()
            control.send(LeftDevice())

        control.handle(ForgetShard, forget)
        control.handle(LeaveDevice, leave)
        control.send(Ready())
        meter.enter("overhead")
        await generate(requests, weights, DataPlanePolicyEngine(policy, weights, plane.rollouts, recipe.seed, residence, meter, recorder))


def _batched(recipe: Recipe, plane: DataPlane, generator: int, meter: Meter, control: Control) -> GeneratorPort:
    return GeneratorPort(plane, generator, recipe.engine.max_batch, max_wait_s(recipe.engine), meter, take_in=control.poll)


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


class DataPlanePolicyEngine:
    """A policy that reads observations from the data plane and writes its decisions beside them. It enters its device when it has work to do there."""

    def __init__(
        self, policy: Policy, weights: WeightPlane, rollouts: Rollouts, seed: int, residence: Residence, meter: Meter, recorder: RecordWriter | None
    ) -> None:
        self.version = -1  # the weights that it was built with: nothing from the weight plane yet
        self._recorder = recorder
        self._policy, self._weights, self._rollouts, self._seed, self._residence, self._meter = policy, weights, rollouts, seed, residence, meter
        self._noise_shape = policy.options.noise_shape(policy.spaces, policy.chunk)

    async def load_weights(self) -> None:
        self._residence.enter()
        with self._meter("load_weights"):
            self.version = self._weights.load()

    async def infer(self, batch: Batch) -> None:
        self._residence.enter()
        device = self._residence.device
        with self._meter("infer", len(batch)):
            arrays = self._rollouts.gather(batch.tickets, batch.rows, self._rollouts.observation_names)
            observations = self._policy.tokenise(observations_from(arrays, self._rollouts.instructions(batch.tickets))).to(device)
            noise = decision_noise(self._seed, batch.keys(), self._noise_shape)
            with torch.inference_mode():
                decisions = self._policy.act(observations, torch.from_numpy(noise).to(device), torch.from_numpy(batch.explore).to(device))
            self._rollouts.scatter(batch.tickets, batch.rows, arrays_from(decisions, self.version), batch.kept)
            if self._recorder and batch.explore.all():
                self._recorder.append(batch.tickets, row=batch.rows, version=self.version, at=time.monotonic_ns())
