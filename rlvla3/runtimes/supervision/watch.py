"""Who is late, and what is done about it: one watch for every worker and every stage (law 5).

The rule:
- a worker that works leaves its stage within the limit of that stage;
- a worker that only waits answers a Ping within a limit. So its event loop runs, and what it waits for will wake it;
- where all workers wait, and one of them for another one, nobody will ever go on: the run ends;
- a worker whose process is stopped by a signal goes on within that limit, whatever its stage. So does an actor of Ray that is not heard of any more.

Invariants:
- the user is told of a worker that is late, and later the worker is killed. What is done then is what is done after any loss: its supervisor decides;
- a limit counts only time in which this process has looked. After Ctrl-Z, or a paused container, all times begin anew;
- a worker that is in time costs nothing. Its stage is read from shared memory, and only a worker that has waited for long is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from rlvla3 import process_tree
from rlvla3.config.supervision import SupervisionConfig
from rlvla3.errors import WorkerError
from rlvla3.observability.formatting import duration
from rlvla3.observability.meter import IDLE, STAGES, MeterBoard
from rlvla3.process_tree import keep_guardian
from rlvla3.runtimes.processes.control import Stopped
from rlvla3.runtimes.processes.messages import Ping, Pong
from rlvla3.runtimes.supervision.limits import (
    ANSWERING,
    HOST,
    Limit,
    StageLimits,
    does_not_answer,
    go_on,
    is_built_slowly,
    is_late,
    is_not_heard,
    is_stopped,
    kind_of,
    nobody_works,
    takes_long,
    was_stopped,
)

LOOK_S = 1.0
ASK_AFTER_S = 5.0
"""A worker that has waited for so long is asked, and asked again so long after its answer."""

LATE_FACTOR = 5
"""A look that comes this many times later than planned is not used: then this process was stopped or starved, and so were the workers."""

SAID_AT_LEAST_EVERY_S = 300.0
"""Who is being built is said again after a while, then after twice that, and so on up to this."""

STALL_FACTOR = 2
"""A run in which nobody works ends after this many times `supervision.stage_timeout_s`."""

NEEDED = frozenset({"decision", "trajectories"})
"""A worker that waits for one of these needs another worker, and not only the coordinator."""

SHORTEST_S = 1e-6
"""A stage in which a worker has spent less has not been left yet."""


class Askable(Protocol):
    """A control channel, as the watch uses it."""

    def send(self, message: Any) -> None: ...

    def handle(self, kind: type, handler: Callable[[Any], None]) -> None: ...


class Watchable(Protocol):
    """A worker that can be watched.

    name: as on the board. pid: of its process, if that is on this machine. heard: when it last said anything, if it does so all the time while it lives.
    """

    name: str

    @property
    def heard(self) -> float | None: ...

    @property
    def control(self) -> Askable: ...

    @property
    def pid(self) -> int | None: ...

    def kill(self, why: str) -> None:
        """Kill it. why: the reason, for whoever deals with its end."""


@dataclass
class _Watched:
    """One worker in its present life.

    row: on the board (None: a host, which is not on it). left_before: seconds [stages] in stages that its predecessors have left. began: when it was added.
    since: when its present stage began. age: its time there, when it was last looked at. pings: how often it was asked. answered: when it last answered.
    asked: when it was asked and has not answered yet. stopped: since when its process is known to be stopped. told: its lateness was told.
    """

    worker: Watchable
    limits: StageLimits
    row: int | None
    left_before: NDArray[np.float64]
    began: float
    stage: str = "start"
    since: float = 0.0
    age: float = 0.0
    pings: int = 0
    answered: float = 0.0
    asked: float | None = None
    stopped: float | None = None
    told: bool = False

    def hear(self, pong: Pong, now: float) -> None:
        if pong.number == self.pings:
            self.asked, self.answered = None, now


@dataclass(frozen=True)
class _Late:
    """What a worker is late with, for how many seconds, and the limit. alike: what is told in one sentence has the same word here. afterwards: what it was late
    with, where that is said in other words when it has been killed."""

    alike: str
    what: str
    seconds: float
    limit: Limit
    afterwards: str = ""


class Watch:
    """Watches the workers that are added to it, from `begin` to `end`.

    board: of the workers' times. notify: called with a sentence for the user. fail: ends the run with an error.

        watch = Watch(board, recipe.supervision, notify, fail)
        watch.add(worker, StageLimits(recipe.supervision))      # again for each process that replaces it
        watch.begin()
        watch.end()
    """

    def __init__(
        self,
        board: MeterBoard,
        settings: SupervisionConfig,
        notify: Callable[[str], None],
        fail: Callable[[Exception], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board, self._settings, self._notify, self._fail, self._now = board, settings, notify, fail, now
        self._watched: dict[str, _Watched] = {}
        self._longest: dict[tuple[StageLimits, str], float] = {}
        """By limits and stage: the longest time in a stage that was left, of all workers with these limits."""
        self._look_every_s = LOOK_S
        self._looked_at = self._counts_from = self._said_building_at = now()
        self._building_every_s = 2 * settings.notice_s
        self._timer: asyncio.TimerHandle | None = None
        self._left = board.left()

    def add(self, worker: Watchable, limits: StageLimits) -> None:
        """Watch a worker whose process has just been started (see MeterBoard.restart). It takes the place of an earlier one with its name."""
        now = self._now()
        row = self._board.workers.index(worker.name) if worker.name in self._board.workers else None
        left = np.zeros(len(STAGES)) if row is None else self._board.left()[row]
        watched = self._watched[worker.name] = _Watched(worker, limits, row, left, now)
        worker.control.handle(Pong, lambda pong: watched.hear(pong, self._now()))
        self._look_every_s = min(self._look_every_s, limits.shortest() / 2)

    def drop(self, name: str) -> None:
        """Watch this worker no longer: it has ended."""
        self._watched.pop(name, None)

    def built(self, name: str) -> None:
        """A worker that is not on the board is built, and has nothing to do but to answer."""
        self._watched[name].stage, self._watched[name].since = HOST, self._now()

    def begin(self) -> None:
        """Look from now on, in the running event loop. It may be called again."""
        if self._timer is None:
            self._looked_at = self._said_building_at = self._now()
            self._plan()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Look once at every worker."""
        now, before = self._now(), self._looked_at
        self._looked_at = now
        if now - before >= LATE_FACTOR * self._look_every_s:
            self._counts_from = now
            for watched in self._watched.values():
                watched.asked = watched.stopped = None
            return
        self._left = self._board.left()
        stages = {name: STAGES[number] for name, number in zip(self._board.workers, self._board.stages().tolist(), strict=True)}
        since = self._board.since()
        news, going_on = list[tuple[_Watched, _Late]](), list[str]()
        for watched in list(self._watched.values()):
            if watched.worker.name not in self._watched:
                continue  # it was a lane of a process that has just been killed
            if watched.row is not None:
                self._follow(watched, stages[watched.worker.name], float(since[watched.row]))
            watched.age = now - max(watched.since, watched.began, self._counts_from)
            late = self._late(watched, now)
            if late is None and watched.told:
                watched.told = False
                going_on.append(watched.worker.name)
            elif late is not None and late.seconds > late.limit.seconds:
                self._kill(watched, late)
            elif late is not None and late.seconds > late.limit.notice_s and not watched.told:
                watched.told = True
                news.append((watched, late))
        self._say(news, going_on, stages)
        self._say_who_is_built(now)
        self._end_if_nobody_works(stages, now - max(float(since.max()), self._counts_from))

    def _plan(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._look_every_s, self._look_again)

    def _look_again(self) -> None:
        self._plan()
        keep_guardian()
        self.look()

    def _follow(self, watched: _Watched, stage: str, since: float) -> None:
        """Take note of the stage that a worker is in."""
        if (stage, since) != (watched.stage, watched.since):
            if watched.since and watched.stopped is None:
                key = watched.limits, watched.stage
                self._longest[key] = max(self._longest.get(key, 0.0), watched.age)
            watched.stage, watched.since, watched.asked = stage, since, None

    def _late(self, watched: _Watched, now: float) -> _Late | None:
        """What a worker is late with, as far as it can be said. None if it is in time."""
        heard, answer = watched.worker.heard, watched.limits.answer()
        if heard is not None and (silent := now - max(heard, self._counts_from)) > min(answer.notice_s, answer.seconds):
            return _Late("not heard", is_not_heard(silent), silent, answer)
        if watched.age < min(ASK_AFTER_S, watched.limits.shortest()):
            watched.stopped = None
            return None
        if (pid := watched.worker.pid) is not None and process_tree.is_stopped(pid):
            watched.stopped = now if watched.stopped is None else watched.stopped
            seconds = now - watched.stopped
            return _Late(f"stopped {pid}", is_stopped(pid, seconds), seconds, answer, was_stopped(pid, seconds))
        watched.stopped = None
        if watched.stage in ANSWERING:
            return self._asked(watched, now)
        longest = self._longest.get((watched.limits, watched.stage), 0.0)
        limit = watched.limits.stage(watched.stage, longest, first=not self._has_left(watched))
        told = limit.seconds if watched.stage == "start" else limit.notice_s  # who is being built is said of all together
        return _Late(watched.stage, takes_long(watched.stage, watched.age, longest), watched.age, limit) if watched.age > min(told, limit.seconds) else None

    def _asked(self, watched: _Watched, now: float) -> _Late | None:
        """Ask a worker that waits, where it is time to; what it is late with, if it has not answered."""
        if watched.asked is None:
            if not watched.pings or now - watched.answered >= ASK_AFTER_S:
                watched.pings, watched.asked = watched.pings + 1, now
                with suppress(Stopped):  # it has just ended, and its end is reported; or it has closed its end and lives, and will not answer
                    watched.worker.control.send(Ping(watched.pings))
            return None
        silent = now - max(watched.asked, self._counts_from)
        limit = watched.limits.answer()
        return _Late(watched.stage, does_not_answer(watched.stage, silent), silent, limit) if silent > min(limit.notice_s, limit.seconds) else None

    def _has_left(self, watched: _Watched) -> bool:
        """Whether a worker, in this life, has left its present stage before."""
        if watched.row is None:
            return False
        stage = STAGES.index(watched.stage)
        return bool(self._left[watched.row, stage] - watched.left_before[stage] > SHORTEST_S)

    def _say(self, news: Sequence[tuple[_Watched, _Late]], going_on: Sequence[str], stages: Mapping[str, str]) -> None:
        """Tell of those who have just become late, and of those who go on. Many that are late with the same thing are one sentence."""
        alike: dict[tuple[str, str, str], list[tuple[_Watched, _Late]]] = {}
        for watched, late in news:
            alike.setdefault((kind_of(watched.worker.name), late.alike, late.limit.words), []).append((watched, late))
        for together in alike.values():
            late = max((late for _, late in together), key=lambda late: late.seconds)
            self._notify(is_late([watched.worker.name for watched, _ in together], late.what, late.limit, stages))
        for kind in dict.fromkeys(map(kind_of, going_on)):
            self._notify(go_on([name for name in going_on if kind_of(name) == kind]))

    def _kill(self, watched: _Watched, late: _Late) -> None:
        worker = watched.worker
        for other in list(self._watched.values()):
            if other is watched or (worker.pid is not None and other.worker.pid == worker.pid):  # several may be lanes of one process
                self.drop(other.worker.name)
        kind = "simulator" if watched.limits.simulator else kind_of(worker.name)
        raise_it = "" if late.afterwards else f", raise it if the {kind} is only slow{_cpu_time(worker.pid) if late.alike == 'start' else ''}"
        worker.kill(f"it {late.afterwards or late.what} and was killed; {late.limit.words} is the limit{raise_it}")

    def _end_if_nobody_works(self, stages: Mapping[str, str], seconds: float) -> None:
        """End a run in which every worker waits, and one of them for another one. All of them answer, so nobody else would find it."""
        limit = STALL_FACTOR * self._settings.stage_timeout_s
        if seconds > limit and all(stage in IDLE for stage in stages.values()) and not NEEDED.isdisjoint(stages.values()):
            self._counts_from = self._now()
            self._fail(WorkerError(nobody_works(stages, seconds)))

    def _say_who_is_built(self, now: float) -> None:
        """Say now and then who is still being built."""
        building = [watched for watched in self._watched.values() if watched.stage == "start"]
        if not building:
            self._building_every_s = 2 * self._settings.notice_s
        elif min(now - self._said_building_at, max(watched.age for watched in building)) >= self._building_every_s:
            self._said_building_at, self._building_every_s = now, min(2 * self._building_every_s, SAID_AT_LEAST_EVERY_S)
            slowest = max(building, key=lambda watched: watched.age)
            names = [watched.worker.name for watched in building]
            self._notify(is_built_slowly(names, list(self._watched), slowest.age, slowest.limits.stage("start", 0.0, first=True)))


def _cpu_time(pid: int | None) -> str:
    """What a process has had of the CPU, for a message: so a busy machine can be told from a process that hangs. Empty where it is not known."""
    try:
        times = psutil.Process(pid).cpu_times() if pid is not None else None
    except psutil.Error:  # it has just ended
        times = None
    return f": it had {duration(times.user + times.system)} of CPU time" if times else ""
