"""Calls of Ray that wait for the whole cluster. Where a cluster hangs, they do not return."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from rlvla3.errors import WorkerError

ResultT = TypeVar("ResultT")

CONNECT_S = 180.0
RESERVE_S = 180.0
LEAVE_S = 30.0


async def within(seconds: float, call: Callable[[], ResultT], otherwise: str, until: threading.Event | None = None) -> ResultT:
    """The result of `call`, made in a thread of its own. Raises WorkerError with the sentence `otherwise` if it does not return in time.

    until: the thread lives until this is set. Processes that Ray starts end with the thread that has started them.

    Nobody waits for that thread then, also not at the end of the program. (The threads of `asyncio.to_thread` are waited for.)
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[ResultT] = loop.create_future()

    def tell(say: Callable[[Any], None], what: Any) -> None:
        if not result.done():
            say(what)

    def run() -> None:
        try:
            said: tuple[Callable[[Any], None], Any] = (result.set_result, call())
        except BaseException as error:  # whatever it is, it belongs to whoever waits
            said = (result.set_exception, error)
        with suppress(RuntimeError):  # the event loop has ended meanwhile
            loop.call_soon_threadsafe(tell, *said)
        if until is not None:
            until.wait()

    threading.Thread(target=run, name="call of Ray", daemon=True).start()
    await asyncio.wait([result], timeout=seconds)
    if not result.done():
        result.cancel()
        raise WorkerError(otherwise)
    return result.result()
