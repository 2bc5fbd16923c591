"""The progress of commands that are no runs: on terminals only, within 80 columns, and never in the way."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import textwrap

import pytest

from rlvla3.observability import progress_line
from rlvla3.observability.progress_line import Work, progress
from tests.support.events import Clock


def test_a_line_says_what_is_done_and_how_long_it_takes():
    clock = Clock()
    work = Work("rehearsing", total=40, unit="plan", clock=clock)
    assert (work.what(), work.how_far()) == ("rehearsing", "0 of 40 plans, 0 s")
    clock.now = 10.0
    work.advance(10)
    assert work.how_far() == "10 of 40 plans, 10 s, 30 s left"
    work.reach(1, total=2, now="colocated")
    assert (work.what(), work.how_far()) == ("rehearsing: colocated", "1 of 2 plans, 10 s, 10 s left")


def test_work_of_a_known_time_says_what_is_left_of_it():
    clock = Clock()
    work = Work("measuring", expected_s=60.0, clock=clock)
    clock.now = 15.0
    assert work.how_far() == "15 s, 45 s left"
    assert work.share() == 0.25
    clock.now = 90.0
    assert work.how_far() == "1 min 30 s"
    assert work.share() == 1.0


def test_pipes_get_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress_line, "SHOWN_AFTER_S", 0.0)
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with progress("measuring"), progress("within it"):
        pass
    assert stream.getvalue() == ""


def on_a_terminal(script: str, columns: int = 80) -> str:
    """What a script writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    preamble = "import sys, time\nfrom rlvla3.observability import progress_line\nfrom rlvla3.observability.progress_line import progress\n"
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns)}
    with subprocess.Popen([sys.executable, "-c", preamble + textwrap.dedent(script)], stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        while part := _read(ours):
            written += part
    os.close(ours)
    assert process.returncode == 0, written.decode()
    return written.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # nobody has the terminal any more
        return b""


SHOWS = """
    progress_line.SHOWN_AFTER_S = 0.0
    with progress("reading the checkpoint of a long name " * 5, total=4, unit="file") as work:
        while progress_line._LINES._live is None:  # another thread shows it
            time.sleep(0.01)
        work.advance(2)
        print("said meanwhile")
        progress_line._LINES._live.refresh()
"""


def test_a_terminal_is_shown_one_line_of_80_columns_which_is_gone_afterwards():
    written = on_a_terminal(SHOWS)
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).replace("\r", "\n").split("\n")
    shown = [line for line in screen if "reading the checkpoint" in line]
    assert shown and all(len(line.rstrip()) <= 80 and "2 of 4 files" in line for line in shown[1:])
    assert any("said meanwhile" in line for line in screen)
    assert "\x1b[2K" in written[written.rindex("2 of 4 files") :]  # the last thing that happens to the line is that it is erased


def test_a_terminal_that_is_gone_is_not_in_the_way():
    on_a_terminal(SHOWS.replace("work.advance(2)", "sys.stderr.close(); work.advance(2)").replace('print("said meanwhile")', "pass"))


def test_what_is_done_soon_is_not_shown():
    assert on_a_terminal("with progress('measuring'): print('done')").strip() == "done"


def test_an_error_takes_the_line_away():
    written = on_a_terminal(SHOWS.replace('print("said meanwhile")', "raise SystemExit(0)"))
    assert "\x1b[?25h" in written  # the cursor is back
