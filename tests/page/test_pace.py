"""How often a browser asks."""

from __future__ import annotations

import pytest

from rlvla3.page.pace import LONGEST_S, MOST_TABS, REMEMBERED, SHARE, SHORTEST_S, Pace


def paces(costs, cores=2):
    """What a browser is told each time, if its answers cost so many seconds of a core, one after the other."""
    worked = [0.0]
    pace = Pace(cores, lambda: worked[0])
    told = [pace.again_s("a tab")]
    for cost in costs:
        worked[0] += cost
        told.append(pace.again_s("a tab"))
    return told


@pytest.mark.parametrize("tabs", [1, 2, 5])
def test_all_tabs_together_take_the_share_of_one(tabs):
    """Each asks when it was told to, and each time costs the same."""
    worked, cost, cores = 0.0, 0.03, 2
    pace = Pace(cores, lambda: worked)
    due = {f"tab {number}": 0.1 * number for number in range(tabs)}
    for _ in range(40 * tabs):
        tab = min(due, key=lambda tab: due[tab])
        worked += cost
        due[tab] += pace.again_s(tab)
    begin, before = min(due.values()), worked
    while min(due.values()) < begin + 600:
        tab = min(due, key=lambda tab: due[tab])
        worked += cost
        due[tab] += pace.again_s(tab)
    assert (worked - before) / (600 * cores) == pytest.approx(SHARE, rel=0.15)


def test_tabs_that_have_gone_are_forgotten():
    pace = Pace(1, lambda: 0.0)
    for number in range(3 * MOST_TABS):
        pace.again_s(f"tab {number}")
    assert len(pace._seen) == MOST_TABS


def test_answers_take_their_share_of_the_cores_and_no_more():
    for cost in (0.03, 0.1, 0.15):
        assert paces([cost] * 10)[-1] == pytest.approx(cost / (2 * SHARE))
    assert paces([0.25] * 10, cores=16)[-1] == pytest.approx(0.25 / (16 * SHARE))


def test_it_is_never_faster_than_a_person_can_read_nor_so_slow_that_a_page_looks_dead():
    assert paces([1e-6] * 10)[-1] == SHORTEST_S
    assert paces([100.0] * 10)[-1] == LONGEST_S


def test_reading_a_long_file_once_does_not_slow_the_page_down():
    assert paces([0.03, 0.03, 0.03, 0.03, 5.0, 0.03])[-1] == pytest.approx(0.03 / (2 * SHARE))
    assert paces([5.0] * (REMEMBERED - 1)) == [SHORTEST_S] * REMEMBERED
