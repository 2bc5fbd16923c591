"""How the end of a process is told."""

from __future__ import annotations

import signal

import pytest

from rlvla3.process_ends import ending_in_words


def test_every_signal_has_words_and_names_itself():
    for number in signal.Signals:
        words = ending_in_words(-number)
        assert words.startswith("it ") and number.name in words


@pytest.mark.parametrize(
    ("exitcode", "memory", "said"),
    [
        (3, False, "it ended by itself with exit code 3"),
        (-signal.SIGKILL, True, "it was killed (SIGKILL) by the system, because memory was used up"),
        (-signal.SIGKILL, False, "it was killed (SIGKILL) by a user or by a batch system; memory was not used up"),
        (-signal.SIGKILL, None, "or by the system because memory was short"),
        (-signal.SIGSEGV, False, "it crashed, because native code used memory that it does not have (SIGSEGV)"),
        (-(signal.SIGRTMIN + 1), False, f"it was ended by signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_an_end_in_words(exitcode: int, memory: bool | None, said: str):
    assert said in ending_in_words(exitcode, memory)
