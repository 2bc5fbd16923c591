"""An event loop in a thread of its own, for links that must go on while their process computes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any

PATIENCE_S = 10.0
"""How long `close` waits for the body to end."""


class OwnThread:
    """Runs `body` from now on until it ends or `close` is called.

    with OwnThread(sender.run()):
        ...
    """

    def __init__(self, body: Coroutine[Any, Any, None], name: str) -> None:
        self._ended: Future[None] = Future()
        begun = threading.Event()
        threading.Thread(target=self._run, args=(body, begun), name=name, daemon=True).start()
        begun.wait()

    def _run(self, body: Coroutine[Any, Any, None], begun: threading.Event) -> None:
        async def begin() -> None:
            task = asyncio.current_task()
            assert task is not None
            self._loop, self._cancel = asyncio.get_running_loop(), task.cancel
            begun.set()
            await body

        try:
            asyncio.run(begin())
        except asyncio.CancelledError:
            self._ended.set_result(None)
        except BaseException as error:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    def close(self) -> None:
        """End `body`. Raises the error that it has ended with, if any; TimeoutError if it does not end within PATIENCE_S."""
        if not self._ended.done():
            with suppress(RuntimeError):  # it has just ended by itself
                self._loop.call_soon_threadsafe(self._cancel)
        self._ended.result(PATIENCE_S)

    def __enter__(self) -> OwnThread:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
