"""How a lost worker's end is told, and when it has no successor any more."""

from __future__ import annotations

import signal

import pytest

from rlvla3.runtimes.supervision.losses import IN_VAIN, Losses, ending_in_words


def test_every_signal_has_words_and_names_itself():
    for number in signal.Signals:
        words = ending_in_words(-number)
        assert words.startswith("it ") and number.name in words


@pytest.mark.parametrize(
    ("exitcode", "memory", "said"),
    [
        (3, False, "it ended by itself with exit code 3"),
        (-signal.SIGKILL, True, "it was killed (SIGKILL) by the system, because memory was used up"),
        (-signal.SIGKILL, False, "or by the system because memory was short"),
        (-signal.SIGSEGV, False, "it crashed, because native code used memory that it does not have (SIGSEGV)"),
        (-(signal.SIGRTMIN + 1), False, f"it was ended by signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_an_end_in_words(exitcode: int, memory: bool, said: str):
    assert said in ending_in_words(exitcode, memory)


def test_a_worker_is_replaced_as_often_as_the_limit_says():
    losses = Losses(limit=20)
    assert not any(losses.why_not_replaced(progress=number) for number in range(20))
    assert "engine.max_restarts=20 is used up" in losses.why_not_replaced(progress=20)


def test_no_limit_of_zero_replaces_nobody():
    assert "engine.max_restarts=0 is used up" in Losses(limit=0).why_not_replaced(progress=5)


def test_a_worker_that_gets_no_further_has_no_successor_for_ever():
    losses = Losses(limit=1000)
    for _ in range(IN_VAIN - 1):
        assert not losses.why_not_replaced(progress=7)
    assert f"lost {IN_VAIN} times in a row" in losses.why_not_replaced(progress=7)


def test_progress_forgives_what_was_in_vain():
    losses = Losses(limit=1000)
    for progress in range(20):
        for _ in range(IN_VAIN - 1):
            assert not losses.why_not_replaced(progress)
