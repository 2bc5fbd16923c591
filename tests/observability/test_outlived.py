"""A run outlives its watchers: whatever they raise, and however long they take."""

from __future__ import annotations

import errno
import io
import json
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvla3.observability import outlived
from rlvla3.observability.events import EpisodeFilmed, Event, Notice, Watcher
from rlvla3.observability.outlived import OutlivedWatchers
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.run_watchers import watched
from tests.support.events import RECIPE, Clock, update
from tests.support.films import film

PATIENCE_S = 60.0


class Hears:
    """A watcher that keeps what it hears, and raises `error` while it is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.heard, self.closed, self.tries = error, list[Event](), False, 0

    def on(self, event: Event) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error
        self.heard.append(event)

    def close(self) -> None:
        if self.error is not None:
            raise self.error
        self.closed = True

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.heard if isinstance(event, Notice)]


ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    OSError(errno.EIO, "Input/output error"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "metrics.jsonl"),
    PermissionError(errno.EACCES, "Permission denied", "summary.json"),
    IndexError("list index out of range"),
    ValueError("I/O operation on closed file"),
    UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"),
    RuntimeError("a tracker is offline"),
    ConnectionResetError("reset"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    AssertionError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_a_watcher_is_one_notice_and_the_others_hear_everything(error: Exception) -> None:
    everyone, broken, well = OutlivedWatchers(), Hears(error), Hears()
    everyone.add("the curves", lambda: broken)
    everyone.add("stdout", lambda: well)
    for number in range(1, 6):
        everyone.on(update(number))
    everyone.close()
    assert [event.update for event in well.heard if not isinstance(event, Notice)] == [1, 2, 3, 4, 5]  # type: ignore[union-attr]
    (said,) = well.notices
    assert said.startswith("the curves: ") and "The run goes on" in said and "\n" not in said
    assert well.closed


def test_an_error_at_the_end_is_not_said_to_be_tried_again() -> None:
    class Unfinished(Hears):
        def close(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    everyone, well = OutlivedWatchers(), Hears()
    everyone.add("trace.json", Unfinished)
    everyone.add("stdout", lambda: well)
    everyone.close()
    (said,) = well.notices
    assert said.startswith("trace.json: ") and "No space left on device" in said and said.endswith("It was the last try, so this may be missing or incomplete")


def test_a_watcher_that_cannot_be_made_is_made_with_a_later_event() -> None:
    everyone, well, made = OutlivedWatchers(), Hears(), Hears()
    tries: list[int] = []

    def make() -> Watcher:
        tries.append(len(tries))
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return made

    everyone.add("stdout", lambda: well)
    everyone.add("metrics.jsonl", make)
    for number in range(1, 5):
        everyone.on(update(number))
    everyone.close()
    assert [event.update for event in made.heard] == [2, 3, 4]  # type: ignore[union-attr]
    assert len(well.notices) == 1 and made.closed


def test_a_watcher_that_is_well_again_says_so_and_a_flickering_one_says_little() -> None:
    clock, well, ill = Clock(), Hears(), Hears()
    everyone = OutlivedWatchers(clock)
    everyone.add("summary.json", lambda: ill)
    everyone.add("stdout", lambda: well)
    for number in range(1, 20):
        ill.error = OSError(errno.ENOSPC, "full") if number % 2 else None
        everyone.on(update(number))
        _until(lambda: ill.tries == number)  # noqa: B023  # called within this round
    _until(lambda: everyone._members[0]._busy_since is None)
    assert len(well.notices) == 1
    ill.error, clock.now = None, outlived.WELL_AGAIN_S + 1
    everyone.on(update(20))
    everyone.close()
    assert well.notices[1:] == ["summary.json: it can be written again"]


def test_a_watcher_that_hangs_is_told_of_and_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, well, free = Clock(), Hears(), threading.Event()

    class Hangs(Hears):
        def on(self, event: Event) -> None:
            free.wait(PATIENCE_S)

    everyone = OutlivedWatchers(clock)
    everyone.add("the slow disk", Hangs)
    everyone.add("stdout", lambda: well)
    everyone.on(update(1))
    _until(lambda: everyone._members[0]._busy_since is not None)
    clock.now = outlived.SLOW_S + 1
    everyone.on(update(2))
    everyone.on(update(3))
    monkeypatch.setattr(outlived, "CLOSING_S", 0.1)
    everyone.close()
    assert [said.partition(":")[0] for said in well.notices] == ["the slow disk", "the slow disk"]
    assert "does not answer" in well.notices[0] and "may be incomplete" in well.notices[1]
    assert outlived.left_behind()
    free.set()
    _until(lambda: not outlived.left_behind())


def test_a_watcher_that_does_not_follow_loses_events_and_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlived, "MOST_WAITING", 5)
    well, free = Hears(), threading.Event()

    class Slow(Hears):
        def on(self, event: Event) -> None:
            free.wait(PATIENCE_S)
            super().on(event)

    slow = Slow()
    everyone = OutlivedWatchers()
    everyone.add("the slow disk", lambda: slow)
    for number in range(1, 21):
        everyone.on(update(number))
    everyone.add("stdout", lambda: well)
    free.set()
    everyone.close()
    assert 5 <= len(slow.heard) <= 6
    assert [said for said in well.notices if "events were left out" in said]


def test_two_watchers_that_fail_hear_of_each_other_once() -> None:
    everyone = OutlivedWatchers()
    for name in "ab":
        everyone.add(name, lambda: Hears(OSError(errno.ENOSPC, "full")))
    well = Hears()
    everyone.add("stdout", lambda: well)
    for number in range(1, 50):
        everyone.on(update(number))
    everyone.close()
    assert len(well.notices) == 2


def _until(condition: Callable[[], object]) -> None:
    waited = threading.Event()
    for _ in range(6000):
        if condition():
            return
        waited.wait(0.01)
    raise AssertionError("it did not happen")


@pytest.mark.parametrize("lost", ["everything", "config.yaml", "moved"])
def test_a_run_directory_that_goes_under_way_is_made_again(run: RunDirectory, lost: str, capsys: pytest.CaptureFixture[str]) -> None:
    with run.locked(), watched(run, RECIPE, "a run") as (everyone,):
        everyone.on(update(1))
        _until(lambda: run.summary.is_file() and run.metric_lines())
        if lost == "config.yaml":
            run.config.unlink()
        elif lost == "moved":
            run.path.rename(run.path.with_name("elsewhere"))
        else:
            shutil.rmtree(run.path)
        everyone.on(update(2))
    printed = capsys.readouterr().out
    assert printed.count("was removed or moved while the run goes on") == 1
    assert run.recipe() == RECIPE
    assert json.loads(run.summary.read_text())["ended"] == "finished"
    assert [line["update"] for line in run.metric_lines() if line["event"] == "update"][-1] == 2


def test_a_summary_that_cannot_be_written_costs_nothing_else(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    run.summary.mkdir()  # a folder in its place, which no permission hides from root
    (run.summary / "x").touch()
    with run.locked(), watched(run, RECIPE, "a run") as (everyone,):
        for number in (1, 2):
            everyone.on(update(number))
    printed = capsys.readouterr().out
    assert printed.count("] summary.json: ") == 1
    assert "finished: " in printed
    assert [line["update"] for line in run.metric_lines() if line["event"] == "update"] == [1, 2]


@pytest.mark.parametrize("does", ["echo out of ink >&2; exit 3", "kill -9 $$", "cat > /dev/null; for to; do :; done; echo half > $to; exit 1"])
def test_a_video_encoder_that_fails_costs_nothing_else(
    run: RunDirectory, tmp_path: Path, does: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (encoder := tmp_path / "ffmpeg").write_text(f"#!/bin/sh\n{does}\n")
    encoder.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(encoder))
    with run.locked(), watched(run, RECIPE, "a run") as (everyone,):
        for index in range(3):
            everyone.on(EpisodeFilmed(film(index)))
    printed = capsys.readouterr().out
    assert printed.count("the videos: ") == 1
    assert "could not be encoded" in printed
    assert not list(run.videos.iterdir())


def test_a_terminal_that_is_gone_is_one_notice_and_no_thread_complains(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[object] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)

    class Terminal(io.StringIO):
        gone = False

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            if self.gone:
                raise OSError(errno.EIO, "Input/output error")
            return super().write(text)

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    with run.locked(), watched(run, RECIPE, "a run") as (everyone,):
        everyone.on(update(1))
        _until(lambda: "1/20" in terminal.getvalue() or "update" in terminal.getvalue() or terminal.getvalue())
        terminal.gone = True
        everyone.on(update(2))
        _until(lambda: [line for line in run.metric_lines() if line["event"] == "notice"])  # the table is drawn anew without news, too
    assert [line["text"].partition(":")[0] for line in run.metric_lines() if line["event"] == "notice"] == ["stdout"]
    assert not complaints
    assert json.loads(run.summary.read_text())["ended"] == "finished"


def test_a_folder_that_another_run_has_taken_is_told_of(run: RunDirectory) -> None:
    with run.locked(), watched(run, RECIPE, "a run", show="nothing") as (everyone,):
        run.path.rename(run.path.with_name("elsewhere"))
        other = RunDirectory.create(run.path, RECIPE)
        with other.locked():
            everyone.on(update(1))
            _until(lambda: any("another run has begun there" in line.get("text", "") for line in run.metric_lines()))
