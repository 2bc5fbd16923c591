"""What one client says, and what it is answered, in the two protocols.

openpi     The server speaks first: metadata. Then each message is an observation, and each answer a chunk of actions. A text frame is an error.
vla-eval   The client says hello and is answered. It says when episodes begin and end. Each observation is answered with one action: a chunk is decided for the
           first one, and the next observations get its other actions, until an episode begins or the chunk is used up.

Both are told apart by their first message. openpi's metadata is written as an answer to vla-eval's hello, too, so the server may speak first to both.

Invariant: every observation gets exactly one answer, in order. One that is refused leaves the conversation as it was.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlvla3.errors import ExplainedError
from rlvla3.serving.forms import DECISION
from rlvla3.serving.latency import Latency
from rlvla3.serving.messages import Dialect, MessageError, packed, unpacked
from rlvla3.serving.requests import Decided
from rlvla3.types import Observation
from rlvla3.version import __version__

VLA_EVAL_VERSION = 1
"""Of vla-eval's protocol."""

LARGEST_KEY = 2**63
"""Tickets and numbers of decisions are below this."""


class Decide(Protocol):
    async def __call__(self, client: int, observation: Observation, decision: tuple[int, int]) -> Decided: ...


def greeting(described: Mapping[str, Any], observation_params: Mapping[str, Any]) -> bytes:
    """What the server says first: openpi's metadata, and vla-eval's hello in the same map. described: the policy, as plain data.

    observation_params: what benchmarks of vla-eval are asked to send.
    """
    hello = {
        "harness_version": f"rlvla3 {__version__}",
        "protocol_version": VLA_EVAL_VERSION,
        "model_server": f"rlvla3 {described.get('policy', '')}",
        "capabilities": {},
        "observation_params": dict(observation_params),
    }
    return packed({**described, "type": "hello", "payload": hello, "seq": 0, "timestamp": time.time()}, "openpi")


class Conversation:
    """One client. `hear` takes each of its messages and returns the answer, if there is one.

    client: its number among those that are connected. session: its number among all that have ever connected; it is the ticket that noise is drawn for.
    execute: how many actions of a chunk a client of vla-eval gets before the next one is decided.
    """

    def __init__(
        self,
        client: int,
        session: int,
        decide: Decide,
        observing: Callable[[object], Observation],
        latency: Latency,
        execute: int,
    ) -> None:
        self._client, self._session, self._decide, self._observing, self._latency, self._execute = client, session, decide, observing, latency, execute
        self._decisions = 0
        self._chunk: deque[NDArray[np.float32]] = deque()
        self._last_total: float | None = None

    async def hear(self, data: bytes | str) -> bytes | str | None:
        """The answer to a message: bytes, a text for an error in openpi's protocol, or None. Waits for: a decision."""
        began = time.monotonic()
        dialect: Dialect = "openpi"
        number = 0
        try:
            message = await asyncio.to_thread(unpacked, data)
            if _is_of_vla_eval(message):
                dialect, number = "vla-eval", message["seq"]
                return await self._hear_vla_eval(message, began)
            return await self._hear_openpi(message, began)
        except ExplainedError as error:
            self._latency.errors += 1
            return _vla_eval("error", {"error": str(error)}, number) if dialect == "vla-eval" else str(error)

    async def _hear_openpi(self, observation: object, began: float) -> bytes:
        decided = await self._decided(observation)
        answer = {
            "actions": decided.actions,
            "policy_timing": {"infer_ms": 1000 * decided.inferring},
            "server_timing": self._timing(decided, began),
        }
        return packed(answer, "openpi")

    async def _hear_vla_eval(self, message: Mapping[str, Any], began: float) -> bytes | None:
        kind, number, payload = message["type"], message["seq"], message["payload"]
        if kind in ("episode_start", "episode_end"):
            self._chunk.clear()
        elif kind == "observation":
            timing = {}
            if not self._chunk:
                decided = await self._decided(payload)
                self._chunk.extend(decided.actions[: self._execute])
                timing = self._timing(decided, began)
            return _vla_eval("action", {"actions": self._chunk.popleft()}, number, timing)
        elif kind not in ("hello", "error"):  # the greeting has answered the hello
            raise MessageError(f"a message of the type {kind!r:.40} came: send hello, episode_start, observation or episode_end")
        return None

    async def _decided(self, message: object) -> Decided:
        observation = await asyncio.to_thread(self._observing, message)
        decision = _decision(message) or (self._session, self._decisions)
        decided = await self._decide(self._client, observation, decision)
        self._decisions += 1
        return decided

    def _timing(self, decided: Decided, began: float) -> dict[str, float]:
        """Of this answer, in milliseconds: waiting for the batch, inference, all of the answer before this one as openpi has it; the batch; percentiles."""
        total = time.monotonic() - began
        self._latency.add(decided, total)
        p50, p99 = self._latency.percentiles_ms
        before = {} if self._last_total is None else {"prev_total_ms": 1000 * self._last_total}
        self._last_total = total
        times = {"infer_ms": 1000 * decided.inferring, "wait_ms": 1000 * decided.waiting, "total_ms": 1000 * total}
        return {**times, **before, "batch": decided.batch, "p50_ms": p50, "p99_ms": p99}


def _is_of_vla_eval(message: object) -> bool:
    return isinstance(message, dict) and {"type", "payload", "seq"} <= message.keys() and isinstance(message["type"], str) and isinstance(message["seq"], int)


def _vla_eval(kind: str, payload: Mapping[str, Any], number: int, timing: Mapping[str, float] | None = None) -> bytes:
    return packed({"type": kind, "payload": payload, "seq": number, "timestamp": time.time(), **({"server_timing": timing} if timing else {})}, "vla-eval")


def _decision(message: object) -> tuple[int, int] | None:
    """What an observation's noise is to be drawn for: (ticket, number of the decision), as in a run. None where the client does not say it."""
    given = message.get(DECISION) if isinstance(message, dict) else None
    if given is None:
        return None
    numbers = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(numbers, list | tuple) or len(numbers) != 2 or not all(type(number) is int and 0 <= number < LARGEST_KEY for number in numbers):
        raise MessageError(f"{DECISION}: given {given!r:.60}, expected the ticket and the number of the decision, two whole numbers from 0 on")
    return numbers[0], numbers[1]
