"""A recipe's simulator as a Gymnasium environment whose step is one chunk, and many of them as Gymnasium's own vector environment.

Nothing here imports torch. The processes are like those of the engine's shards: they have the same niceness, the same cores and the same meters.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from numpy.typing import NDArray

from rlvla3.config import Recipe
from rlvla3.instructions import encode_instruction
from rlvla3.observability.meter import MeterBoard
from rlvla3.runtimes.processes.main_module import main_module_hidden
from rlvla3.runtimes.processes.process import START_TIMEOUT_S
from rlvla3.runtimes.worker_names import shard_name
from rlvla3.runtimes.workers.shard_worker import NICENESS
from rlvla3.scheduling.ledger import TicketBook
from rlvla3.scheduling.sharding import ShardSpec
from rlvla3.simulators.common_spaces import make_run_simulator
from rlvla3.types import INSTRUCTION_BYTES, Field, Layout, Observation, Spaces, observation_layout, outcome_layout

NO_TICKET = -1
"""The ticket of an environment that runs no episode."""

CLOSE_TIMEOUT_S = 5.0
"""How long the environments may take to close."""

EPISODE_FIELDS = {"success": Field((), np.uint8), "instruction": Field((INSTRUCTION_BYTES,), np.uint8)}
"""What the main process learns of an episode, in addition to observations and outcomes."""

Arrays = dict[str, NDArray[Any]]


def action_layout(spaces: Spaces, chunk: int) -> Layout:
    """The arrays of one action."""
    return {"ticket": Field((), np.int64), "chunk": Field((chunk, spaces.action.size), np.float32)}


class ChunkEnv(gymnasium.Env[Any, Any]):
    """One simulator that runs one ticket after the other. The first reset builds it, in the process in which it runs.

    An action is {"ticket": int64, "chunk": float32 [C, A]}. If this ticket is running, the chunk is executed. Otherwise the ticket's episode begins, while
    other environments execute their chunks. This is like Gymnasium's next-step autoreset, which cannot be given a ticket. An observation also holds the
    outcome of the chunk, so that everything goes through shared memory.
    """

    def __init__(self, recipe: Recipe, spaces: Spaces, book: TicketBook, shard: ShardSpec, board: MeterBoard) -> None:
        self._recipe, self._spaces, self._book, self._shard, self._board = recipe, spaces, book, shard, board
        layout = observation_layout(spaces) | outcome_layout(recipe.policy.chunk) | EPISODE_FIELDS
        self.observation_space, self.action_space = _space(layout), _space(action_layout(spaces, recipe.policy.chunk))
        self._shown: Arrays = {name: np.zeros(field.shape, field.dtype) for name, field in layout.items()}
        self._ticket, self._instruction = NO_TICKET, ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        self._meter = self._board.meter(shard_name(self._shard.number))
        self._meter.enter("start")
        os.nice(NICENESS)
        if self._shard.cores:
            os.sched_setaffinity(0, self._shard.cores)
        self._simulator = make_run_simulator(self._recipe, self._shard, self._spaces)
        self._meter.enter("decision")
        return self._shown, {}

    def step(self, action: Arrays) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        ticket = int(action["ticket"])
        if ticket == NO_TICKET:
            return self._shown, 0.0, False, False, {}
        if ticket == self._ticket:
            return self._execute(action["chunk"])
        self._ticket = ticket
        with self._meter("reset"):
            observation = self._simulator.reset(0, self._book.ticket(ticket))
        self._store(observation)
        return self._shown, 0.0, False, False, {}

    def close(self) -> None:
        if hasattr(self, "_simulator"):
            self._simulator.close()

    def _execute(self, chunk: NDArray[np.float32]) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        with self._meter("simulate"):
            outcome = self._simulator.step({0: chunk})[0]
        executed = len(outcome.rewards)
        self._shown["rewards"][:executed] = outcome.rewards
        self._shown["executed"][...] = executed
        self._shown["dimensions"][...] = chunk.shape[1] if outcome.dimensions is None else outcome.dimensions
        self._shown["success"][...] = outcome.success
        if outcome.observation is not None:
            self._store(outcome.observation)
        return self._shown, float(outcome.rewards.sum()), outcome.terminated, outcome.truncated, {}

    def _store(self, observation: Observation) -> None:
        for camera, image in observation.images.items():
            self._shown[f"image.{camera}"] = image
        self._shown["state"], self._shown["elapsed"] = observation.state, np.asarray(observation.elapsed, np.float32)
        if observation.instruction != self._instruction:
            self._instruction, self._shown["instruction"] = observation.instruction, encode_instruction(observation.instruction)


def _space(layout: Layout) -> Dict:
    return Dict({name: _box(field) for name, field in layout.items()})


def _box(field: Field) -> Box:
    """A space that accepts every array of the field's shape and type."""
    dtype = np.dtype(field.dtype)
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return Box(low, high, field.shape, dtype.type)


@contextmanager
def vector_environment(recipe: Recipe, spaces: Spaces, book: TicketBook, shards: Sequence[ShardSpec], board: MeterBoard) -> Iterator[AsyncVectorEnv[Any, Any]]:
    """A vector environment with each shard's environment built in a process of its own. Observations come through shared memory and are not copied."""
    environments = [partial(ChunkEnv, recipe, spaces, book, shard, board) for shard in shards]
    with main_module_hidden():
        vector = AsyncVectorEnv(environments, shared_memory=True, copy=False, context="spawn", autoreset_mode=AutoresetMode.DISABLED)
    try:
        vector.reset_async()
        vector.reset_wait(timeout=START_TIMEOUT_S)
        yield vector
    except BaseException:
        for process in vector.processes:
            process.kill()
        vector.closed = True  # vector.close() would wait for answers that may never come
        raise
    vector.close(timeout=CLOSE_TIMEOUT_S)
