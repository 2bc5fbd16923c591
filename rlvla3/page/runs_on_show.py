"""The runs that a page shows. Each is read once for all who ask, and what has not changed is not read again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlvla3.errors import described
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.page.advice_beside import AdviceBeside
from rlvla3.page.episodes import Films
from rlvla3.page.explaining import explain
from rlvla3.page.folder import FoundRun, find_runs
from rlvla3.page.machine_curves import MachineCurves
from rlvla3.page.run_facts import facts_of
from rlvla3.page.run_reader import RunReader
from rlvla3.page.shown import film_json, glossary, machine_json, run_json, timeline_json
from rlvla3.page.timeline import Timeline

FOUND_S = 1.0
"""A browser asks for several things at a time. The folder is searched once for all of them."""

MOST_OPEN = 16
"""Runs that are kept in memory. The one that was asked for longest ago is forgotten first."""

SHOWN_S, SHORTEST_S, LONGEST_S = 60.0, 1e-3, 3600.0
"""Of a timeline."""

Json = dict[str, Any]


@dataclass
class _Open:
    """A run that is shown. lock: one answer at a time reads it. said: the explanation of what was `known` then."""

    reader: RunReader
    machine: MachineCurves
    timeline: Timeline
    films: Films
    advice: AdviceBeside = field(default_factory=AdviceBeside)
    lock: threading.Lock = field(default_factory=threading.Lock)
    known: object = None
    said: list[Json] = field(default_factory=list)


class RunsOnShow:
    """The runs of a folder, each with its reader. What cannot be read raises RunDirectoryError or OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._found: tuple[float, list[FoundRun]] = (-FOUND_S, [])
        self._briefs: dict[str, tuple[float, Json]] = {}

    def path(self, name: str) -> Path | None:
        return next((run.path for run in self._runs() if run.name == name), None)

    def listed(self) -> list[Json]:
        """All runs in a few words. A run that has ended, and has written nothing since, is not read again.

        A run that may not be read stands among them, and `unread` says why.
        """
        briefs: dict[str, tuple[float, Json]] = {}
        for run in self._runs():
            written, brief = self._briefs.get(run.name, (None, {}))
            if written != run.written or brief["state"] == "running" or brief["unread"]:
                brief = {"name": run.name, "written": run.written, **_brief(run.path)}
            briefs[run.name] = run.written, brief
        self._briefs = briefs
        return [brief for _, brief in briefs.values()]

    def run(self, name: str, path: Path) -> Json:
        opened = self._opened(name, path)
        with opened.lock:
            opened.reader.refresh()
            opened.machine.refresh()
            shown, machine = run_json(opened.reader), machine_json(opened.machine)
        return {"name": name, "place": str(path), **shown, "machine": machine, "glossary": glossary(shown["curves"])}

    def films(self, name: str, path: Path) -> list[Json]:
        opened = self._opened(name, path)
        with opened.lock:
            return [film_json(film) for film in opened.films.newest()]

    def explanation(self, name: str, path: Path) -> list[Json]:
        opened = self._opened(name, path)
        with opened.lock:
            opened.reader.refresh()
            opened.machine.refresh()
            facts = facts_of(opened.reader, opened.machine)
            advice = opened.advice.newest(facts)
            silent = facts.signs.quiet_s // 60 if facts.state == "lost" else 0.0
            known = facts.metrics.seconds, facts.read_share, facts.machine.complete, facts.ended, facts.state, silent, facts.settings, advice
            if known != opened.known:
                opened.known, opened.said = known, [asdict(sentence) for sentence in explain(facts, advice)]
            return opened.said

    def timeline(self, name: str, path: Path, seconds: float | None, end: float | None) -> Json:
        opened = self._opened(name, path)
        with opened.lock:
            lanes = opened.timeline.lanes()
        return timeline_json(lanes, min(max(seconds or SHOWN_S, SHORTEST_S), LONGEST_S), end)

    def _runs(self) -> list[FoundRun]:
        with self._lock:
            searched, found = self._found
            if time.monotonic() - searched > FOUND_S:
                found = find_runs(self._folder)
                self._found = time.monotonic(), found
            return found

    def _opened(self, name: str, path: Path) -> _Open:
        with self._lock:
            if name not in self._open:
                run = RunDirectory(path)
                self._open[name] = _Open(RunReader(path), MachineCurves(path), Timeline(run), Films(run.videos))
            self._open.move_to_end(name)
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
            return self._open[name]


def _brief(path: Path) -> Json:
    try:
        return {**RunReader(path).brief(), "unread": ""}
    except OSError as error:
        return {"state": "ended", "ended": "", "update": 0, "updates": None, "rollouts": None, "unread": described(error)}
