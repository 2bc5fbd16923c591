"""The policy engine of a server, for the generate loop (loops.py): it answers a batch of requests with an Actor.

Invariants:
- one thread does all work on the device, so the event loop goes on. A batch is computed while the next one waits;
- a request whose observation the policy refuses, or for which it returns what cannot be used, costs no other one its answer: the others are decided alone;
- the noise of a decision is a function of the seed and of the request's (ticket, number), as in a run (policies/noise.py). With `deterministic` it is the same
  for every decision.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlvla3.devices import work_on
from rlvla3.errors import ExplainedError, described
from rlvla3.inference.actor import Actor
from rlvla3.inference.answers import Answer
from rlvla3.policies.expected_answers import AnswerError
from rlvla3.policies.noise import decision_noise
from rlvla3.serving.requests import Batch, Request
from rlvla3.types import Observation, Version


@dataclass(frozen=True, slots=True)
class Noise:
    """Which noise decisions get. seed: of all of it. explore: exploration noise, as in training. deterministic: the same noise for every decision."""

    seed: int = 0
    explore: bool = False
    deterministic: bool = False


class ServedPolicyEngine:
    """Decides for batches of requests.

    device: the one thread that works on the device. The actor was made in it. tell: takes what the user of the server should know.
    """

    version: Version = 0

    def __init__(self, actor: Actor, noise: Noise, device: ThreadPoolExecutor, tell: Callable[[str], None] = print) -> None:
        self.beside_host = actor.beside_host
        self._actor, self._noise, self._device, self._tell = actor, noise, device, tell
        self._shape = actor.policy.options.noise_shape(actor.policy.spaces, actor.policy.chunk)
        self._waiter = ThreadPoolExecutor(1, "waiter", initializer=work_on, initargs=(actor.device,))
        self._answers: dict[int, Answer] = {}

    async def load_weights(self, batch: Batch) -> None:
        """Never called: there is one version."""

    async def begin(self, batch: Batch) -> None:
        if self.beside_host:
            await self._launched(batch)

    async def end(self, batch: Batch) -> None:
        if not self.beside_host:
            await self._launched(batch)
        if answer := self._answers.get(id(batch)):
            await answer.ended(self._waiter)

    def write(self, batch: Batch) -> None:
        """Settle the requests of a batch that has ended."""
        answer = self._answers.pop(id(batch), None)
        if answer is None:
            return  # its requests are settled already: it failed
        now, actions = time.monotonic(), answer.decisions.actions.float().cpu().numpy().copy()
        for request, chunk in zip(batch, actions, strict=True):
            if np.isfinite(chunk).all():
                request.settle(chunk, len(batch), now)
            else:
                request.fail(AnswerError(f"the policy {self._actor.expected.name} returned actions that are not finite for this observation"))

    async def warm(self) -> None:
        """Decide once for a black frame, so that the first client waits no longer than the others. Raises what the policy raises."""
        spaces = self._actor.policy.spaces
        images = {camera: np.zeros(shape, np.uint8) for camera, shape in spaces.cameras.items()}
        seen = Observation(images, np.zeros(spaces.state, np.float32), next(iter(spaces.instructions), "do something"))
        loop = asyncio.get_running_loop()
        batch = [Request(seen, (0, 0), 0.0, loop.create_future())]
        answer = await loop.run_in_executor(self._device, self._launch, batch)
        await answer.ended(self._waiter)

    def close(self) -> None:
        self._waiter.shutdown(wait=False, cancel_futures=True)

    async def _launched(self, batch: Batch) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._answers[id(batch)] = await loop.run_in_executor(self._device, self._launch, batch)
        except Exception as error:  # whatever the policy raises, it is an answer to those who asked, and the server goes on
            if len(batch) == 1:
                batch[0].fail(self._explained(error))
                return
            for request in batch:
                await self._alone(request)

    async def _alone(self, request: Request) -> None:
        """Decide for one request of a batch that failed."""
        alone = [request]
        await self._launched(alone)
        if answer := self._answers.get(id(alone)):
            await answer.ended(self._waiter)
            self.write(alone)

    def _launch(self, batch: Batch) -> Answer:
        """Hand a batch to the device, in its thread. Raises what the policy raises."""
        actor, rows = self._actor, len(batch)
        actor.waiting.clear()  # rows of a batch that failed
        for name, array in actor.waiting.rows(rows).items():
            array[:] = [_part(request, name) for request in batch]
        actor.waiting.add(rows)
        explore = np.full(rows, self._noise.explore)
        return actor.begin(range(rows), [request.observation.instruction for request in batch], self._drawn(batch), explore)

    def _drawn(self, batch: Batch) -> NDArray[np.float32]:
        decisions = [(0, 0) if self._noise.deterministic else request.decision for request in batch]
        return decision_noise(self._noise.seed, [(int(self._noise.explore), *decision) for decision in decisions], self._shape)

    def _explained(self, error: Exception) -> Exception:
        """The error as a client is told of it. One that does not explain itself is shown to the user of the server, too."""
        if isinstance(error, ExplainedError):
            return error
        self._tell(f"the policy {self._actor.expected.name} failed:\n{''.join(traceback.format_exception(error))}")
        return AnswerError(f"the policy {self._actor.expected.name} failed on the server: {described(error)}")


def _part(request: Request, name: str) -> object:
    """The array `name` of types.observation_layout."""
    seen = request.observation
    return seen.images[name.removeprefix("image.")] if name.startswith("image.") else getattr(seen, name)
