"""The virtual clock."""

from __future__ import annotations

from rlvla3.runtimes.virtual.clock import Signal, VirtualClock


def test_what_happens_at_the_same_instant_happens_in_the_order_asked_for():
    clock, seen = VirtualClock(), []

    async def walk(name: str, *pauses: float) -> None:
        for pause in pauses:
            await clock.sleep(pause)
            seen.append((clock.now, name))

    clock.start(walk("a", 1, 1))
    clock.start(walk("b", 2))
    clock.start(walk("c", 0.5, 1.5))
    clock.run()
    assert seen == [(0.5, "c"), (1, "a"), (2, "b"), (2, "c"), (2, "a")]


def test_a_signal_is_remembered_and_expires():
    clock = VirtualClock()
    signal, woken = Signal(clock), []

    async def wait(deadline: float) -> None:
        await signal.wait(deadline)
        woken.append(clock.now)

    signal.give()
    clock.start(wait(9))  # given before
    clock.at(1, lambda: clock.start(wait(3)))  # expires
    clock.at(4, lambda: clock.start(wait(9)))  # given at 5
    clock.at(5, signal.give)
    clock.run()
    assert woken == [0, 3, 5]
