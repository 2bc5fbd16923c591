"""Advice from a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from rlvla3.observability.run_directory import RunDirectory
from rlvla3.page import advice_beside
from rlvla3.page.advice_beside import EVERY_S, UNDER_WAY, AdviceBeside
from rlvla3.page.explaining import advice_of
from rlvla3.page.run_facts import run_facts
from tests.support.made_runs import make_run


def waited_for(beside, facts):
    deadline = time.monotonic() + 240
    while (found := beside.newest(facts)) is UNDER_WAY:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.mark.slow
def test_it_is_the_advice_that_the_command_gives(tmp_path):
    facts = run_facts(make_run(tmp_path / "run", updates=12))
    assert waited_for(AdviceBeside(), facts) == advice_of(facts)


@pytest.mark.slow
def test_a_process_that_fails_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    facts = run_facts(make_run(tmp_path / "run", updates=12))
    assert "the process that rehearses has failed: it ended by itself with exit code 1" in waited_for(AdviceBeside(), facts).text


def test_it_is_made_anew_for_a_run_that_goes_on_and_once_for_one_that_has_ended(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(advice_beside.AdviceBeside, "_make", lambda _, question: asked.append(question))
    now = [0.0]
    for ended, times in (("running", 2), ("finished", 1)):
        run = RunDirectory(make_run(tmp_path / ended, updates=12, ended=ended))
        with run.locked():
            facts = run_facts(run.path)
        beside = AdviceBeside(lambda: now[0])
        asked.clear()
        for now[0] in (0.0, EVERY_S / 2, EVERY_S + 1, EVERY_S + 2):
            beside.newest(facts)
        assert len(asked) == times, ended


def test_rehearsals_that_take_too_long_are_ended_and_told_of(monkeypatch):
    def late(*_, timeout, **__):
        raise subprocess.TimeoutExpired("rehearse", timeout)

    monkeypatch.setattr(subprocess, "run", late)
    beside = AdviceBeside()
    beside._make(b"")
    assert beside._ready is not None and "rehearsals took longer than 600 s" in beside._ready.text
