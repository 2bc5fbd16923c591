"""A worker's body in a Ray actor. Both sides of it see what they see of a local worker: a channel, the body's a pipe within the actor.

    coordinator  RemoteWorker  <-- Ray -->  WorkerActor = pipe = Control  body

Invariants:
- messages arrive in the order they were sent, and none is polled for: `listen` is answered when there is something to say, or to say where time goes;
- an actor that is lost is heard of once, after all that it said before; where Ray brings it back, it begins anew. One that was taken for lost and is not,
  as the network was away for a while, ends as soon as it is reached, and begins anew too.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import ray
from numpy.typing import NDArray
from ray.exceptions import ActorUnavailableError, RayActorError

from rlvla3.errors import explains_itself
from rlvla3.links.rollouts import Rollouts
from rlvla3.observability.meter import MeterBoard
from rlvla3.runtimes.processes.control import Control, Stop, Stopped
from rlvla3.runtimes.processes.messages import Failed
from rlvla3.runtimes.processes.process import name_process, run_body
from rlvla3.runtimes.ray.messages import Status

Arrays = Mapping[str, NDArray[Any]]

FETCH_TIMEOUT_S = 120.0
"""An episode that has not come by then will not come."""

LOSS_S = 30.0
"""How long it may take until Ray knows that an actor is lost."""

STATUS_S = 0.2
"""How often an actor says what its workers are at."""


class ActorState:
    """What a body lets others see: the episodes that they may fetch or bring, where its workers' time goes, and environment steps so far."""

    rollouts: Rollouts
    board: MeterBoard
    steps: Callable[[], int] = staticmethod(lambda: 0)


class WorkerActor:
    """The actor. Its body runs in a thread of its own: `await body(control, shelf, *args)`."""

    def __init__(self, name: str, body: str, *args: Any) -> None:
        here, there = multiprocessing.Pipe()
        self._control, self._listening, self._over, self._shelf = Control(here), False, False, ActorState()
        self._life, self._said_status = secrets.token_hex(4), 0.0
        self._thread = threading.Thread(target=_reside, args=(name, Control(there), body, self._shelf, args), name=name, daemon=True)
        self._thread.start()

    async def tell(self, messages: list[Any]) -> None:
        """Messages for the body."""
        self._listen()
        for message in messages:
            self._control.send(message)

    async def listen(self, given_up: str) -> tuple[str, list[Any]]:
        """Which of its lives this is, and what has been said since the last call: what workers are at, every STATUS_S, and then what the body said, as soon as
        it does; Stop when it is over, and from then on nothing.

        given_up: a life that was taken for lost, and whose work others do by now. If it is this one, it ends.
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
                await asyncio.Event().wait()  # until this actor ends: whoever listens hears of that
            self._over = True
            return self._life, [Stop()]
        return self._life, [*self._status(), *said, *self._control.arrived()]

    async def episode(self, ticket: int) -> Arrays:
        """One episode of the shelf."""
        return self._shelf.rollouts.parcel(ticket)

    async def bring(self, ticket: int, source: Any) -> None:
        """Fetch an episode from another actor's shelf onto this one's. Raises RayActorError where that actor is lost."""
        self._shelf.rollouts.unpack(ticket, await asyncio.wait_for(source.episode.remote(ticket), FETCH_TIMEOUT_S))

    def _status(self) -> list[Status]:
        """What its workers are at, if that is due and there are any."""
        shelf, now = self._shelf, time.monotonic()
        if now - self._said_status < STATUS_S or not hasattr(shelf, "board"):
            return []
        self._said_status = now
        return [Status(shelf.board.read(), shelf.board.stages(), shelf.steps())]

    def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            self._control.listen()


def _reside(name: str, control: Control, body: str, shelf: ActorState, args: tuple[Any, ...]) -> None:
    name_process(name)  # the thread: what the process is called is Ray's
    # A child that is spawned from here would import Ray's worker program again, as its own main module.
    sys.modules["__main__"].__dict__.pop("__file__", None)
    try:
        module, _, function = body.partition(":")
        asyncio.run(run_body(control, getattr(importlib.import_module(module), function), shelf, *args))
    except Exception as error:
        control.send(Failed(type(error).__name__, str(error), traceback.format_exc(), explains_itself(error)))
    finally:
        control.close()


class RemoteWorker:
    """An actor, seen from the coordinator; it is its own channel. on_lost: told when it is lost, and whether Ray brings it back. overhear: told of every
    message as it comes."""

    def __init__(self, name: str, actor: Any, on_lost: Callable[[bool], None], overhear: Callable[[Any], None] = lambda _: None) -> None:
        self.name, self.actor, self._on_lost, self._overhear = name, actor, on_lost, overhear
        self._life = self._given_up = ""
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
        """Begin anew with an actor that Ray has brought back: what was on its way to the lost one is gone."""
        self.close()
        self._given_up = self._life
        self._connect()

    def close(self) -> None:
        for relay in self._relays:
            relay.cancel()

    def kill(self) -> None:
        ray.kill(self.actor)

    async def stop(self, patience_s: float) -> None:
        """Ask the body to end, hear it out, and kill the actor when it has ended, or has not within `patience_s`."""
        try:
            await asyncio.wait_for(asyncio.gather(self.actor.tell.remote([Stop()]), self._ended.wait()), patience_s)
        except (TimeoutError, RayActorError, Stopped):  # what a call of an actor's raises is of its own type, too
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
            return  # whoever listens hears of it

    async def _hear(self) -> None:
        soon = asyncio.get_running_loop().call_soon  # so that the error of a handler is the loop's, and ends the run
        try:
            while True:
                self._life, said = await self.actor.listen.remote(self._given_up)
                for message in said:
                    if isinstance(message, Stop):  # of the body; that the actor is lost may still be heard
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
