"""Training with a synchronous vector environment, as it is usually written: everybody waits for the slowest.

    decide for all environments at once; where an update's episodes are complete, learn, while the simulators wait; then all step a chunk

The rest is the engine's: the same tickets from the same ledger, so that episodes of the next update begin while the last of this one run, as far as
max_staleness lets them; the same policy, noise and learner, the same arrays. The difference is who waits for whom.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv
from numpy.typing import NDArray

from rlvla3.benchmarks.chunk_env import NOBODY, action_layout
from rlvla3.config import Recipe
from rlvla3.links.rollouts import Episode, Rollouts
from rlvla3.loops import train
from rlvla3.observability.meter import Meter
from rlvla3.parts import bootstraps, make_streamer, rollout_spec
from rlvla3.policies.conversion import arrays_from, observations_from
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.registry import make_policy
from rlvla3.runtimes.workers.device import choose_device
from rlvla3.runtimes.workers.trainer_loop import MeteredLearner
from rlvla3.scheduling.ledger import Ledger
from rlvla3.scheduling.sharding import ShardSpec
from rlvla3.simulators.base import SimulatorError
from rlvla3.training.learner import Learner
from rlvla3.types import Finished, MicroBatch, Observation, Outcome, Ticket, Version

EXPLORING = 1
"""Every ticket is one to train on: the first word of a decision's name (links/data_plane.py)."""


class Lockstep:
    """The main process: policy, learner and what they work on. One environment is one shard of one slot.

    steps: environment steps so far. chunk_seconds: how long each step of the vector environment took in which every environment executed a chunk.

        async for metrics, episodes in Lockstep(recipe, vector, ledger, shards, meter).updates(): ...
    """

    def __init__(self, recipe: Recipe, vector: AsyncVectorEnv[Any, Any], ledger: Ledger, shards: list[ShardSpec], meter: Meter) -> None:
        torch.set_num_threads(recipe.training.threads)
        torch.manual_seed(recipe.seed)
        self._recipe, self._vector, self._ledger, self._shards, self._meter = recipe, vector, ledger, shards, meter
        self._device = choose_device(recipe.training.device, "training.device")
        self.rollouts = Rollouts(rollout_spec(recipe, ledger.capacity))
        spaces, chunk = self.rollouts.spec.spaces, recipe.policy.chunk
        self.policy = make_policy(recipe.policy, spaces)
        self._noise_shape, self._action = self.policy.options.noise_shape(spaces, chunk), action_layout(spaces, chunk)
        self._streamer = make_streamer(recipe)
        self._learner = MeteredLearner(Learner(self.policy, recipe, self.rollouts, self._device), self._streamer, meter)
        self._values_last = bootstraps(recipe)
        self._beginning: dict[int, Ticket] = {}
        self._episodes: dict[int, Episode] = {}
        self._seen: Mapping[str, NDArray[Any]] = {}
        self.steps = 0
        self.chunk_seconds: list[float] = []

    async def updates(self) -> AsyncIterator[tuple[Mapping[str, float], list[Finished]]]:
        """One update after the other, once it has been learned from: the learner's metrics, and its episodes in ticket order."""
        while True:
            self._decide()
            self._hand_in()
            while len(episodes := self._ledger.finished(self._ledger.version)) == self._ledger.batch:
                await train([self._ledger.version], self, self._learner, self)
                yield self._metrics, episodes
            self._deal()
            self._step()

    async def of(self, update: int) -> AsyncIterator[MicroBatch]:
        """All of an update's micro-batches, for the train loop."""
        for finished in self._ledger.finished(update):
            self._streamer.arrived(finished.ticket.index, finished.decisions)
        for micro_batch in self._streamer.update(update):
            assert micro_batch is not None, "an update is learned from when all of its tickets have been handed in"
            yield micro_batch

    async def publish(self, version: Version, metrics: Mapping[str, float]) -> None:
        """Nothing to send anywhere: the policy that decides is the one that has learned."""
        self._metrics = metrics
        self._ledger.advance(version)

    def _decide(self) -> None:
        """One inference for every episode that goes on, and for the value of what a time limit has just cut."""
        asking = [episode for episode in self._episodes.values() if not episode.done or (episode.truncated and self._values_last)]
        if not asking:
            return
        asking.sort(key=lambda episode: episode.ticket.index)
        tickets, rows = (np.array(column, np.int64) for column in zip(*((episode.ticket.index, episode.row) for episode in asking), strict=True))
        with self._meter("infer", len(asking)):
            arrays = self.rollouts.gather(tickets, rows, self.rollouts.observation_names)
            observations = observations_from(arrays, [self.rollouts.instruction(ticket) for ticket in tickets.tolist()]).to(self._device)
            names = [(EXPLORING, ticket, row) for ticket, row in zip(tickets.tolist(), rows.tolist(), strict=True)]
            noise = torch.from_numpy(decision_noise(self._recipe.seed, names, self._noise_shape)).to(self._device)
            with torch.inference_mode():
                decisions = self.policy.act(observations, noise, torch.ones(len(asking), dtype=torch.bool, device=self._device))
            self.rollouts.scatter(tickets, rows, arrays_from(decisions, self._ledger.version))

    def _hand_in(self) -> None:
        for environment in [environment for environment, episode in self._episodes.items() if episode.done]:
            self._ledger.hand_in(self._episodes.pop(environment).finish())

    def _deal(self) -> None:
        """A ticket for every environment that is free, as long as there are any."""
        for shard in self._shards:
            if shard.number not in self._episodes and (ticket := self._ledger.take(shard.simulator)):
                self._beginning[shard.number] = ticket

    def _step(self) -> None:
        """All environments at once: a chunk for those that run an episode, the first observation for those that begin one."""
        actions = {name: np.zeros((len(self._shards), *field.shape), field.dtype) for name, field in self._action.items()}
        actions["ticket"][:] = NOBODY
        for environment, ticket in self._beginning.items():
            actions["ticket"][environment] = ticket.index
        for environment, episode in self._episodes.items():
            actions["ticket"][environment], actions["chunk"][environment] = episode.ticket.index, episode.actions
        began = time.monotonic()
        terminated, truncated = self._wait_for(actions)
        if len(self._episodes) == len(self._shards):
            self.chunk_seconds.append(time.monotonic() - began)
        for environment, episode in self._episodes.items():
            self._record(environment, episode, bool(terminated[environment]), bool(truncated[environment]))
        for environment, ticket in self._beginning.items():
            self._episodes[environment] = self.rollouts.begin(ticket, self._observation(environment))
        self._beginning.clear()

    def _wait_for(self, actions: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Step, and wait until the slowest has. Raises SimulatorError where one never does: nobody replaces it here."""
        limit = self._recipe.simulator.timeout_s
        try:
            with self._meter("trajectories"):
                self._vector.step_async(actions)
                self._seen, _, terminated, truncated, _ = self._vector.step_wait(timeout=limit)
        except (EOFError, multiprocessing.TimeoutError) as error:
            raise SimulatorError(f"an environment has ended, or taken longer than simulator.timeout_s={limit:g} for a chunk or a reset") from error
        return terminated, truncated

    def _record(self, environment: int, episode: Episode, terminated: bool, truncated: bool) -> None:
        executed = int(self._seen["executed"][environment])
        self.steps += executed
        episode.record(
            Outcome(
                actions=episode.actions,
                rewards=self._seen["rewards"][environment][:executed],
                observation=None if terminated else self._observation(environment),
                success=bool(self._seen["success"][environment]),
                terminated=terminated,
                truncated=truncated,
                dimensions=int(self._seen["dimensions"][environment]),
            )
        )

    def _observation(self, environment: int) -> Observation:
        images = {name.removeprefix("image."): array[environment] for name, array in self._seen.items() if name.startswith("image.")}
        instruction = bytes(self._seen["instruction"][environment]).rstrip(b"\0").decode()
        return Observation(images, self._seen["state"][environment], instruction, float(self._seen["elapsed"][environment]))
