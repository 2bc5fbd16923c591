"""How a session is run where an event loop runs already, and where it does not; and how interrupts reach it."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlvla3.errors import WorkerError
from rlvla3.runtimes import running
from rlvla3.runtimes.running import run_session
from rlvla3.signals import ENDS, HEARD, KEEPS, heard, how_ended, number_of

Runner = Callable[[Callable[[], None]], None]


class Work:
    """A session that goes on until it is interrupted `enough` times, and then has an end to make."""

    def __init__(self, enough: int = 0, error: Exception | None = None, number: int = signal.SIGINT) -> None:
        self.enough, self.error, self.interrupts, self.thread = enough, error, 0, threading.current_thread()
        self.number, self.kept = number, list[int]()
        self.over = False

    def interrupt(self, number: int) -> None:
        assert asyncio.get_running_loop() is self.loop
        self.interrupts += 1
        self.news.set()

    def keep(self, number: int) -> None:
        assert asyncio.get_running_loop() is self.loop
        self.kept.append(number)
        self.news.set()

    async def do(self) -> bool:
        self.loop, self.thread, self.news = asyncio.get_running_loop(), threading.current_thread(), asyncio.Event()
        for _ in range(self.enough):
            os.kill(os.getpid(), self.number)
            await self.news.wait()
            self.news.clear()
        await asyncio.sleep(0)
        self.over = True
        if self.error is not None:
            raise self.error
        return self.interrupts > 0


def plainly(call: Callable[[], None]) -> None:
    call()


def in_a_running_loop(call: Callable[[], None]) -> None:
    async def cell() -> None:
        call()

    asyncio.run(cell())


@pytest.fixture(autouse=True)
def no_signal_is_ignored() -> Iterator[None]:
    ignored = [number for number in HEARD if signal.getsignal(number) is signal.SIG_IGN]  # as nohup leaves SIGHUP
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(params=[plainly, in_a_running_loop])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    handlers = [signal.getsignal(number) for number in sorted(HEARD)]
    yield request.param
    assert [signal.getsignal(number) for number in sorted(HEARD)] == handlers


def test_it_returns_when_the_work_is_done(runner: Runner) -> None:
    work = Work()
    runner(lambda: run_session(work, work.do()))
    assert work.over
    assert (work.thread is threading.main_thread()) == (runner is plainly)
    assert runner is plainly or not work.thread.is_alive()


@pytest.mark.parametrize("times", [1, 2])
def test_interrupts_reach_the_session_which_ends_by_itself(runner: Runner, times: int) -> None:
    work = Work(enough=times)
    with pytest.raises(KeyboardInterrupt):
        runner(lambda: run_session(work, work.do()))
    assert work.over
    assert work.interrupts == times


@pytest.mark.parametrize("number", ENDS)
def test_every_signal_that_ends_work_is_named(runner: Runner, number: int) -> None:
    work = Work(enough=1, number=number)
    with pytest.raises(KeyboardInterrupt) as ended:
        runner(lambda: run_session(work, work.do()))
    assert number_of(ended.value) == number
    assert type(ended.value) is KeyboardInterrupt or number != signal.SIGINT
    assert how_ended(ended.value) == ("interrupted" if number == signal.SIGINT else f"interrupted by {signal.Signals(number).name}")


TWICE = {
    (signal.SIGINT, signal.SIGINT, 0.0): 2,
    (signal.SIGTERM, signal.SIGINT, 0.0): 2,
    (signal.SIGTERM, signal.SIGTERM, 0.0): 1,  # a batch system and the script of its job
    (signal.SIGTERM, signal.SIGTERM, 60.0): 2,
    (signal.SIGHUP, signal.SIGTERM, 60.0): 2,
    (signal.SIGINT, signal.SIGTERM, 0.0): 1,
    (signal.SIGHUP, signal.SIGHUP, 60.0): 1,  # a terminal and its shell
    (signal.SIGTERM, signal.SIGHUP, 60.0): 1,
    (signal.SIGXCPU, signal.SIGXCPU, 60.0): 1,  # the kernel, every second
    (signal.SIGUSR1, signal.SIGTERM, 0.0): 1,
}


@pytest.mark.parametrize("first", sorted(HEARD))
@pytest.mark.parametrize("second", ENDS)
@pytest.mark.parametrize("later", [0.0, 60.0])
def test_which_signals_are_a_second_interrupt(monkeypatch: pytest.MonkeyPatch, first: signal.Signals, second: signal.Signals, later: float) -> None:
    work, now = Work(), [0.0]
    told: list[int] = []
    monkeypatch.setattr(work, "interrupt", told.append)
    heard = running._Signals(work, lambda: now[0])
    monkeypatch.setattr(work, "keep", lambda number: None)
    heard.hear(first)
    now[0] += later
    heard.hear(second)
    assert len(told) == TWICE.get((first, second, later), len(told))
    assert told[0] == (second if first in KEEPS else first)
    assert len(told) == 1 or second in (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", KEEPS)
def test_a_warning_reaches_the_session_which_goes_on(runner: Runner, number: int) -> None:
    work = Work(enough=2, number=number)
    runner(lambda: run_session(work, work.do()))
    assert work.over and work.kept == [number, number]


def test_a_signal_that_the_caller_ignores_is_left_alone(runner: Runner) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        work = Work()

        async def do() -> bool:
            os.kill(os.getpid(), signal.SIGHUP)
            return await work.do()

        runner(lambda: run_session(work, do()))
        assert work.over and not work.interrupts
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [number for number in ENDS if number != signal.SIGINT])
def test_around_a_command_a_signal_that_ends_it_is_raised_and_a_warning_does_nothing(number: int) -> None:
    before = [signal.getsignal(number) for number in sorted(HEARD)]
    with pytest.raises(KeyboardInterrupt) as ended, heard():
        for warning in KEEPS:
            signal.raise_signal(warning)
        signal.raise_signal(number)
    assert number_of(ended.value) == number
    assert [signal.getsignal(number) for number in sorted(HEARD)] == before


def test_a_handler_that_was_set_before_is_set_again(runner: Runner) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        work = Work(enough=1)
        with pytest.raises(KeyboardInterrupt):
            runner(lambda: run_session(work, work.do()))
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_an_error_of_the_work_is_raised(runner: Runner) -> None:
    work = Work(error=WorkerError("the simulator is gone"))
    with pytest.raises(WorkerError, match="the simulator is gone"):
        runner(lambda: run_session(work, work.do()))


def test_another_thread_may_run_a_session() -> None:
    """Interrupts are the main thread's then."""
    work = Work()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run_session, work, work.do()).result()
        nested = Work()
        pool.submit(in_a_running_loop, lambda: run_session(nested, nested.do())).result()
    assert work.over
    assert nested.over


def test_the_thread_of_a_session_sees_the_context_of_its_cell() -> None:
    cell = contextvars.ContextVar("cell", default="none")
    seen: list[str] = []

    class Looks(Work):
        async def do(self) -> bool:
            seen.append(cell.get())
            return False

    cell.set("the third")
    work = Looks()
    in_a_running_loop(lambda: run_session(work, work.do()))
    assert seen == ["the third"]
