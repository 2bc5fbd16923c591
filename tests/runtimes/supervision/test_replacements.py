"""When a lost worker is replaced."""

from __future__ import annotations

from rlvla3.runtimes.supervision.replacements import IN_VAIN, Replacements


def test_a_worker_is_replaced_as_often_as_the_limit_says():
    replacements = Replacements(limit=20)
    assert not any(replacements.why_not_replaced(progress=number) for number in range(20))
    assert "engine.max_restarts=20 is used up" in replacements.why_not_replaced(progress=20)


def test_no_limit_of_zero_replaces_nobody():
    assert "engine.max_restarts=0 is used up" in Replacements(limit=0).why_not_replaced(progress=5)


def test_a_worker_that_gets_no_further_has_no_successor_for_ever():
    replacements = Replacements(limit=1000)
    for _ in range(IN_VAIN - 1):
        assert not replacements.why_not_replaced(progress=7)
    assert f"lost {IN_VAIN} times in a row" in replacements.why_not_replaced(progress=7)


def test_progress_forgives_what_was_in_vain():
    replacements = Replacements(limit=1000)
    for progress in range(20):
        for _ in range(IN_VAIN - 1):
            assert not replacements.why_not_replaced(progress)
