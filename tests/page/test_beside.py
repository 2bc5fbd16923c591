"""`rlvla3 train --watch`: a page beside the run, which the run outlives."""

from __future__ import annotations

import json
import re
import urllib.request

import psutil
import pytest

from tests.support.runs import Run, countdown

pytestmark = pytest.mark.slow


def page_of(run: Run) -> str:
    """The address that the run tells."""
    assert run.process.stdout is not None
    for line in run.process.stdout:
        if address := re.search(r"the page of this run: (http://\S+)", line):
            return address[1]
    raise AssertionError("the run has told no address")


def page_process(run: Run) -> psutil.Process:
    return next(process for process in psutil.Process(run.process.pid).children() if "rlvla3.page.beside" in process.cmdline())


def test_the_page_is_there_while_the_run_goes_on_and_not_afterwards(tmp_path):
    run = Run(tmp_path, countdown(training={"updates": 400}), None, "--watch")
    address = page_of(run)
    page = page_process(run)
    with urllib.request.urlopen(f"{address}api/run?name=run", timeout=60) as answer:
        shown = json.load(answer)
    assert shown["state"] == "running" and shown["settings"]["values"]["engine.trace"] is True
    run.process.terminate()
    assert run.process.wait(120) in (0, 143)
    assert not page.is_running() or page.status() == psutil.STATUS_ZOMBIE


def test_the_run_goes_on_when_its_page_is_killed(tmp_path):
    run = Run(tmp_path, countdown(), None, "--watch")
    page_of(run)
    page_process(run).kill()
    said = run.wait()
    assert "finished" in said
    notices = json.loads((run.folder / "summary.json").read_text())["notices"]
    assert any("the page has ended" in notice for notice in notices)


def test_the_page_ends_with_a_run_that_is_killed(tmp_path):
    run = Run(tmp_path, countdown(training={"updates": 4000}), None, "--watch")
    page_of(run)
    page = page_process(run)
    run.process.kill()
    page.wait(60)
