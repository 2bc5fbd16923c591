"""A worker body in a Ray actor. Both sides see a control channel, as they do for a local worker process. The body's end of it is a pipe within the actor.

    coordinator  RemoteWorker  <-- Ray -->  WorkerActor = pipe = Control  body

Invariants:
- messages arrive in the order in which they were sent. Nobody polls: `listen` is answered when there is a message, or when the times of workers are due;
- the loss of an actor is reported once, after all its messages. If Ray restarts the actor, it begins a new life;
- an actor that counts as lost, but lives (the network was away for a while), ends as soon as it is reached, and begins a new life too.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from numpy.typing import NDArray
from ray.exceptions import ActorUnavailableError, RayActorError

from rlvla3.links.rollouts import Rollouts
from rlvla3.links.weights.versions import PinnedVersion, WeightMemory
from rlvla3.observability.meter import MeterBoard
from rlvla3.runtimes.processes.control import Control, Stop, Stopped
from rlvla3.runtimes.processes.lanes import name_process, run_body
from rlvla3.runtimes.processes.messages import Failed
from rlvla3.runtimes.ray.messages import Status

Arrays = Mapping[str, NDArray[Any]]

FETCH_TIMEOUT_S = 120.0
"""An episode that has not arrived after this time will not arrive."""

LOSS_S = 30.0
"""How long Ray may need to find out that an actor is lost."""

STATUS_S = 0.2
"""How often an actor reports the times of its workers."""


class ActorState:
    """What a body lets other actors see: episodes to fetch or to bring, the board of its workers' times, environment steps so far, how its generators batch,
    and its versions of the weights."""

    rollouts: Rollouts
    board: MeterBoard
    steps: Callable[[], int] = staticmethod(lambda: 0)
    batching: Callable[[], Sequence[Mapping[str, float]]] = staticmethod(lambda: ())
    memory: WeightMemory


class WorkerActor:
    """The actor. Its body runs in a thread of its own: `await body(control, state, *args)`."""

    def __init__(self, name: str, body: str, *args: Any) -> None:
        here, there = multiprocessing.Pipe()
        self._control, self._listening, self._over, self._state = Control(here, supervises=True), False, False, ActorState()
        self._life, self._said_status = secrets.token_hex(4), 0.0
        self._thread = threading.Thread(target=_reside, args=(name, Control(there), body, self._state, args), name=name, daemon=True)
        self._thread.start()

    async def tell(self, messages: list[Any]) -> None:
        """Messages for the body."""
        self._listen()
        for message in messages:
            self._control.send(message)

    async def listen(self, given_up: str) -> tuple[str, list[Any]]:
        """Returns which life of the actor this is, and its messages since the last call: a Status every STATUS_S, and what the body has sent, as soon as it
        sends it. Stop when the body has ended; after that, the call never returns.

        given_up: a life that counts as lost, and whose work others do by now. If it is this one, the actor ends.
        """
        if given_up == self._life:
            os._exit(1)
        self._listen()
        try:
            said = [await asyncio.wait_for(self._control.receive(), STATUS_S)]
        except TimeoutError:
            said = []
        except Stopped:
            if self._over:
                await asyncio.Event().wait()  # until this actor ends, which the caller hears of
            self._over = True
            return self._life, [Stop()]
        return self._life, [*self._status(), *said, *self._control.arrived()]

    async def episode(self, ticket: int) -> Arrays:
        """One episode of this actor."""
        return self._state.rollouts.parcel(ticket)

    async def bring(self, ticket: int, source: Any) -> None:
        """Fetch an episode of another actor into this one. Raises RayActorError if that actor is lost."""
        self._state.rollouts.unpack(ticket, await asyncio.wait_for(source.episode.remote(ticket), FETCH_TIMEOUT_S))

    async def pinned(self) -> PinnedVersion:
        """The pinned version of this actor."""
        return self._state.memory.take_pinned()

    def _status(self) -> list[Status]:
        """The times of its workers, if they are due."""
        state, now = self._state, time.monotonic()
        if now - self._said_status < STATUS_S or not hasattr(state, "board"):
            return []
        self._said_status = now
        return [Status(state.board.read(), state.board.stages(), state.board.ages(), state.steps(), state.batching())]

    def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            self._control.listen()


def _reside(name: str, control: Control, body: str, state: ActorState, args: tuple[Any, ...]) -> None:
    name_process(name)  # names this thread: the name of the process is Ray's
    try:
        module, _, function = body.partition(":")
        asyncio.run(run_body(control, getattr(importlib.import_module(module), function), state, *args))
    except Exception as error:
        control.send(Failed.with_error(error))
    finally:
        control.close()


class RemoteWorker:
    """An actor, as the coordinator sees it. It is its own channel.

    on_lost: called when the actor is lost, with whether Ray restarts it. overhear: called with every message as it arrives. heard: when it last answered (None:
    it has not begun yet). An actor that lives answers several times a second. killed: why it was killed, if it hung.
    """

    pid = None
    """Its process is not on this machine."""

    def __init__(self, name: str, actor: Any, on_lost: Callable[[bool], None], overhear: Callable[[Any], None] = lambda _: None) -> None:
        self.name, self.actor, self._on_lost, self._overhear = name, actor, on_lost, overhear
        self._life = self._given_up = self.killed = ""
        self.heard: float | None = None
        self._connect()

    @property
    def control(self) -> RemoteWorker:
        return self

    def send(self, message: Any) -> None:
        self._to_say.put_nowait(message)

    def handle(self, kind: type, handler: Callable[[Any], None]) -> None:
        self._handlers[kind] = handler

    async def receive(self) -> Any:
        """The next message that has no handler."""
        return await self._heard.get()

    def reconnect(self) -> None:
        """Connect to an actor that Ray has restarted. Messages that were on their way to the lost one are dropped."""
        self.close()
        self._given_up, self.killed, self.heard = self._life, "", None
        self._connect()

    def close(self) -> None:
        for relay in self._relays:
            relay.cancel()

    def kill(self, why: str = "") -> None:
        """Kill the actor. why: if it is killed because it hangs. Then Ray may restart it."""
        self.killed = why
        ray.kill(self.actor, no_restart=not why)

    async def stop(self, patience_s: float) -> None:
        """Ask the body to end, read its last messages, and kill the actor when the body has ended, or after `patience_s` seconds."""
        try:
            await asyncio.wait_for(asyncio.gather(self.actor.tell.remote([Stop()]), self._ended.wait()), patience_s)
        except (TimeoutError, RayActorError, Stopped):  # Ray raises an actor's errors as instances of their own types, too
            pass
        finally:
            self.close()
            ray.kill(self.actor)

    def _connect(self) -> None:
        self._handlers: dict[type, Callable[[Any], None]] = {}
        self._to_say, self._heard, self._ended = asyncio.Queue[Any](), asyncio.Queue[Any](), asyncio.Event()
        self._relays = [asyncio.ensure_future(self._speak()), asyncio.ensure_future(self._hear())]

    async def _speak(self) -> None:
        try:
            while True:
                messages = [await self._to_say.get()]
                while not self._to_say.empty():
                    messages.append(self._to_say.get_nowait())
                await self.actor.tell.remote(messages)
        except (RayActorError, Stopped):
            return  # `_hear` hears of it

    async def _hear(self) -> None:
        soon = asyncio.get_running_loop().call_soon  # so that the error of a handler goes to the event loop, and ends the run
        try:
            while True:
                self._life, said = await self.actor.listen.remote(self._given_up)
                self.heard = time.monotonic()
                for message in said:
                    if isinstance(message, Stop):  # the body has ended; the loss of the actor may still be reported
                        soon(self._ended.set)
                    else:
                        soon(self._take_in, message)
        except RayActorError as error:
            soon(self._on_lost, isinstance(error, ActorUnavailableError))

    def _take_in(self, message: Any) -> None:
        self._overhear(message)
        if handler := self._handlers.get(type(message)):
            handler(message)
        else:
            self._heard.put_nowait(message)
