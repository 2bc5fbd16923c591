"""How long a worker may stay in each stage, and what the user is told of a worker that is late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlvla3.config import SimulatorConfig
from rlvla3.config.supervision import SupervisionConfig
from rlvla3.observability.formatting import duration, number_of

HOST = "host"
"""Where a host of a Ray run is when it is built: its event loop does little at a time. It is no stage of a board."""

ANSWERING = ("ticket", "decision", "requests", "trajectories", "command", HOST)
"""Stages in which a worker only waits in its event loop, so that it can answer at once."""

RANKS_S = 660.0
"""Seconds that a rank may wait for other ranks. It gives up by itself before (PATIENCE in training/ranks.py), and then says for whom it has waited."""

GROWTH = 10
"""A worker may take so many times the longest time that it has needed for a stage so far."""

NOTICE_GROWTH = 3

_NEEDED = {
    "start": "to be built",
    "reset": "for one reset",
    "simulate": "for one chunk",
    "infer": "for one inference",
    "load_weights": "to load new weights",
    "offload": "to move its tensors",
    "train": "for one pass of training",
    "fit_critic": "to fit the critic",
    "publish": "to publish its weights",
    "clone": "for one step of cloning",
    "checkpoint": "to write a checkpoint",
    "ranks": "to hear from the other ranks",
    "publication": "to publish its last version",
    "overhead": "between two stages",
}

_WAITS = {
    "ticket": "waits for a ticket",
    "decision": "waits for a decision",
    "requests": "waits for requests",
    "trajectories": "waits for trajectories",
    "ranks": "waits for other ranks",
    "command": "waits for a command",
    HOST: "serves its workers",
}

_WAITED_FOR = {"shard": ("requests", "trajectories"), "generator": ("decision",), "trainer": ("ticket", "ranks"), "host": ("trajectories",)}
"""By the kind of a worker: the stages in which other workers wait for what it makes."""


@dataclass(frozen=True, slots=True)
class Limit:
    """seconds: until the worker counts as hung. notice_s: until the user is told. words: where the limit comes from."""

    seconds: float
    notice_s: float
    words: str


@dataclass(frozen=True, slots=True, eq=False)
class StageLimits:
    """The limits of one worker. simulator: the settings of the simulator that it runs, if it runs one."""

    settings: SupervisionConfig
    simulator: SimulatorConfig | None = None

    def answer(self) -> Limit:
        """Of a worker that waits, and of one whose process is stopped."""
        return Limit(self.settings.answer_timeout_s, self.settings.notice_s, f"supervision.answer_timeout_s={self.settings.answer_timeout_s:g}")

    def stage(self, stage: str, longest: float, first: bool) -> Limit:
        """Of a worker that works. longest: the longest time that workers with these limits have needed for the stage so far. first: it is there for the first
        time."""
        told, simulator, build, usual = self.settings.notice_s, self.simulator, self.settings.build_timeout_s, self.settings.stage_timeout_s
        late_s = max(told, NOTICE_GROWTH * longest)
        if simulator is not None and stage == "start":
            return Limit(simulator.build_timeout_s, late_s, f"simulator.build_timeout_s={simulator.build_timeout_s:g}")
        if simulator is not None and stage in ("reset", "simulate"):
            return Limit(simulator.timeout_s, late_s, f"simulator.timeout_s={simulator.timeout_s:g}")
        if stage == "ranks":
            return Limit(RANKS_S, 4 * told, f"{RANKS_S:g} s")
        if stage == "start" or (first and build > max(usual, GROWTH * longest)):
            return Limit(build, late_s, f"supervision.build_timeout_s={build:g}")
        if GROWTH * longest > usual:
            return Limit(GROWTH * longest, late_s, f"{GROWTH} times its longest time so far (supervision.stage_timeout_s={usual:g} is less)")
        return Limit(usual, late_s, f"supervision.stage_timeout_s={usual:g}")

    def shortest(self) -> float:
        """The shortest of all these limits."""
        own = (self.settings.notice_s, self.settings.answer_timeout_s, self.settings.stage_timeout_s, self.settings.build_timeout_s)
        return min(*own, *((self.simulator.timeout_s, self.simulator.build_timeout_s) if self.simulator else ()))


def kind_of(worker: str) -> str:
    """ "trainer 1" -> "trainer"."""
    return worker.partition(" ")[0]


def takes_long(stage: str, seconds: float, longest: float) -> str:
    """What a worker is late with: "has taken 20 s for one inference (0.2 s at most before)"."""
    before = f" ({duration(longest) if longest >= 1 else f'{longest:.2g} s'} at most before)" if longest and stage != "start" else ""
    return f"has taken {duration(seconds)} {_NEEDED.get(stage, f'in stage {stage}')}{before}"


def does_not_answer(stage: str, seconds: float) -> str:
    doing = _WAITS.get(stage, "waits")
    return f"{doing} and has not answered for {duration(seconds)}"


def is_not_heard(seconds: float) -> str:
    return f"has not been heard of for {duration(seconds)}"


def is_stopped(pid: int, seconds: float) -> str:
    return f"is stopped: something sent a stop signal to its process {pid} at least {duration(seconds)} ago, and `kill -CONT {pid}` lets it go on"


def who_waits(worker: str, stages: Mapping[str, str]) -> str:
    """Who waits for what `worker` makes: "3 shards wait for a decision". stages: the present stage of every worker."""
    wanted = _WAITED_FOR.get(kind_of(worker), ())
    return _counted({other: stage for other, stage in stages.items() if other != worker and stage in wanted}) or "Nobody waits for it yet"


def was_stopped(pid: int, seconds: float) -> str:
    return f"was stopped for {duration(seconds)} by a signal that something sent to its process {pid}"


def is_late(workers: Sequence[str], what: str, limit: Limit, stages: Mapping[str, str]) -> str:
    """Workers of one kind are late with the same thing. what: as one of them is late with it. stages: the present stage of every worker."""
    first, *others = workers
    who, each = first, "It"
    if others:
        who, each = f"{first} and {number_of(len(others), f'other {kind_of(first)}')}", "Each"
        what = what.replace("has ", "have ").replace("waits ", "wait ").replace("serves its ", "serve their ")
    return f"{who} {what}. {who_waits(first, stages)}. {each} is killed after {duration(limit.seconds)} ({limit.words})"


def go_on(workers: Sequence[str]) -> str:
    first, *others = workers
    return f"{first} and {number_of(len(others), f'other {kind_of(first)}')} go on" if others else f"{first} goes on"


def nobody_works(stages: Mapping[str, str], seconds: float) -> str:
    return (
        f"nobody works any more, for {duration(seconds)}: {_counted(stages)}. Every worker answers, so this is a mistake of rlvla3: please report it, with the "
        "run directory. `rlvla3 train RUN_DIR` goes on from the last checkpoint"
    )


def _counted(stages: Mapping[str, str]) -> str:
    """ "3 shards wait for a decision and 1 trainer waits for trajectories"."""
    said = []
    for (kind, stage), count in Counter((kind_of(worker), stage) for worker, stage in stages.items()).items():
        words = _WAITS.get(stage, f"waits for a {stage}")
        said.append(f"{number_of(count, kind)} {words if count == 1 else words.replace('waits', 'wait', 1)}")
    return " and ".join(said)


def is_built_slowly(building: Sequence[str], workers: Sequence[str], seconds: float, limit: Limit) -> str:
    """building: the workers that are still being built, for at most so many `seconds`."""
    shards = [name for name in building if kind_of(name) == "shard"]
    there = sum(kind_of(name) == "shard" for name in workers)
    said = [*([f"{len(shards)} of {number_of(there, 'simulator')}"] if shards else []), *(name for name in building if name not in shards)]
    *before, last = said
    are = "is" if len(building) == 1 else "are"
    return f"{', '.join(before)}{' and ' if before else ''}{last} {are} still being built, for {seconds:.0f} s; {limit.words} is the limit"
