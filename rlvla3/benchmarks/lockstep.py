"""Training with a synchronous vector environment, as it is usually written: all environments wait for the slowest one.

The loop repeats three steps:
1. one inference decides for all environments;
2. if all episodes of an update have ended, the learner trains on them while the simulators wait;
3. all environments execute a chunk.

Everything else is the engine's own: the policy, the noise, the learner, the arrays, and the ledger with its tickets. So episodes of the next update begin while
the last ones of this update run, as far as max_staleness allows. Only the waiting differs.
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

from rlvla3.benchmarks.chunk_env import NO_TICKET, action_layout
from rlvla3.config import Recipe
from rlvla3.devices import choose_device
from rlvla3.instructions import decode_instructions
from rlvla3.links.rollouts import Episode, Rollouts
from rlvla3.loops import train
from rlvla3.observability.meter import Meter
from rlvla3.parts import bootstraps, make_streamer, rollout_spec
from rlvla3.policies.conversion import arrays_from, observations_from
from rlvla3.policies.noise import decision_noise
from rlvla3.policies.registry import make_policy
from rlvla3.runtimes.workers.trainer_loop import MeteredLearner
from rlvla3.scheduling.ledger import Ledger
from rlvla3.scheduling.sharding import ShardSpec
from rlvla3.simulators.base import SimulatorError
from rlvla3.training.learner import Learner
from rlvla3.types import Finished, MicroBatch, Observation, Outcome, Ticket, Version

EXPLORING = 1
"""The first word of a decision's name (links/data_plane.py): the ticket is one to train on."""


class LockstepTrainer:
    """The main process, with policy, learner and rollouts. One environment is one shard with one slot.

    steps: environment steps so far. chunk_seconds: the durations of those steps of the vector environment in which every environment executed a chunk.

        async for metrics, episodes in LockstepTrainer(recipe, vector, ledger, shards, meter).updates(): ...
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
        self._shown: Mapping[str, NDArray[Any]] = {}
        self.steps = 0
        self.chunk_seconds: list[float] = []

    async def updates(self) -> AsyncIterator[tuple[Mapping[str, float], list[Finished]]]:
        """Train, and yield each update when it is done: the learner's metrics, and the update's episodes in ticket order."""
        while True:
            self._decide()
            self._hand_in()
            while len(episodes := self._ledger.finished(self._ledger.version)) == self._ledger.batch:
                await train([self._ledger.version], self, self._learner, self)
                yield self._metrics, episodes
            self._deal()
            self._step()

    async def of(self, update: int) -> AsyncIterator[MicroBatch]:
        """All micro-batches of an update, for the train loop."""
        for finished in self._ledger.finished(update):
            self._streamer.arrived(finished.ticket.index, finished.decisions)
        for micro_batch in self._streamer.update(update):
            assert micro_batch is not None, "training on an update begins when all of its tickets have been handed in"
            yield micro_batch

    async def publish(self, version: Version, metrics: Mapping[str, float]) -> None:
        """Advance the ledger. Nothing is sent: the policy that decides is the one that is trained."""
        self._metrics = metrics
        self._ledger.advance(version)

    def _decide(self) -> None:
        """One inference for every running episode, and for the value of the last observation of episodes that a time limit has just ended."""
        waiting = [episode for episode in self._episodes.values() if not episode.done or (episode.truncated and self._values_last)]
        if not waiting:
            return
        waiting.sort(key=lambda episode: episode.ticket.index)
        tickets, rows = (np.array(column, np.int64) for column in zip(*((episode.ticket.index, episode.row) for episode in waiting), strict=True))
        with self._meter("infer", len(waiting)):
            arrays = self.rollouts.gather(tickets, rows, self.rollouts.observation_names)
            observations = self.policy.tokenise(observations_from(arrays, self.rollouts.instructions(tickets, rows))).to(self._device)
            names = [(EXPLORING, ticket, row) for ticket, row in zip(tickets.tolist(), rows.tolist(), strict=True)]
            noise = torch.from_numpy(decision_noise(self._recipe.seed, names, self._noise_shape)).to(self._device)
            with torch.inference_mode():
                decisions = self.policy.act(observations, noise, torch.ones(len(waiting), dtype=torch.bool, device=self._device))
            self.rollouts.scatter(tickets, rows, arrays_from(decisions, self._ledger.version))

    def _hand_in(self) -> None:
        for environment in [environment for environment, episode in self._episodes.items() if episode.done]:
            self._ledger.hand_in(self._episodes.pop(environment).finish())

    def _deal(self) -> None:
        """Give a ticket to every free environment, as long as the ledger has tickets."""
        for shard in self._shards:
            if shard.number not in self._episodes and (ticket := self._ledger.take(shard.simulator)):
                self._beginning[shard.number] = ticket

    def _step(self) -> None:
        """Step all environments: those that run an episode execute a chunk, and those that begin one return its first observation."""
        actions = {name: np.zeros((len(self._shards), *field.shape), field.dtype) for name, field in self._action.items()}
        actions["ticket"][:] = NO_TICKET
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
        """Step the vector environment and wait for the slowest environment.

        Raises SimulatorError if an environment ends or takes longer than simulator.timeout_s. It is not replaced here.
        """
        limit = self._recipe.simulator.timeout_s
        try:
            with self._meter("trajectories"):
                self._vector.step_async(actions)
                self._shown, _, terminated, truncated, _ = self._vector.step_wait(timeout=limit)
        except (EOFError, multiprocessing.TimeoutError) as error:
            raise SimulatorError(f"an environment has ended, or has taken longer than simulator.timeout_s={limit:g} for a chunk or a reset") from error
        return terminated, truncated

    def _record(self, environment: int, episode: Episode, terminated: bool, truncated: bool) -> None:
        executed = int(self._shown["executed"][environment])
        self.steps += executed
        episode.record(
            Outcome(
                actions=episode.actions,
                rewards=self._shown["rewards"][environment][:executed],
                observation=None if terminated else self._observation(environment),
                success=bool(self._shown["success"][environment]),
                terminated=terminated,
                truncated=truncated,
                dimensions=int(self._shown["dimensions"][environment]),
            )
        )

    def _observation(self, environment: int) -> Observation:
        images = {name.removeprefix("image."): array[environment] for name, array in self._shown.items() if name.startswith("image.")}
        [instruction] = decode_instructions(self._shown["instruction"][[environment]])
        return Observation(images, self._shown["state"][environment], instruction, float(self._shown["elapsed"][environment]))
