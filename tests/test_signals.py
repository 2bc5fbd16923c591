"""The signals that a command hears, and whose handlers are in place when somebody else has set his own."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rlvla3 import cli
from rlvla3.cli import main
from rlvla3.signals import HEARD, handlers_kept


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Signals as a new process has them: Ray sets handlers of its own, and another test may have started it in this process."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in HEARD - {signal.SIGINT}}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_are_heard_while_a_command_is_still_imported(monkeypatch: pytest.MonkeyPatch, usual_signals: None) -> None:
    raised: list[Any] = []

    def imports(_: Any) -> bool:
        signal.raise_signal(signal.SIGUSR1)  # would end this process
        raised.append("a warning did nothing")
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("SIGTERM did nothing")

    monkeypatch.setattr(cli, "_run", imports)
    assert main(["train", "recipe.yaml"]) == 128 + signal.SIGTERM
    assert raised == ["a warning did nothing"]


@pytest.mark.parametrize("in_a_thread", [True, False])
def test_a_handler_that_a_library_of_c_sets_is_replaced_by_the_one_from_before(usual_signals: None, in_a_thread: bool) -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))

    def load_the_library() -> None:
        with handlers_kept():
            ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(1))  # SIG_IGN

    if in_a_thread:
        thread = threading.Thread(target=load_the_library)
        thread.start()
        thread.join()
    else:
        load_the_library()
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
