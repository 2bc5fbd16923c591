"""What a run tells its watchers: the progress table, metrics.jsonl, TensorBoard, summary.json.

The session emits these events in order; a watcher reads the ones it knows and never answers back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlvla3.types import Finished


@dataclass(frozen=True, slots=True)
class WorkerTime:
    """Where one worker's time went: share of wall time by stage (busy) and by what was waited for (idle). All shares together sum to 1."""

    name: str
    busy: Mapping[str, float]
    idle: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TicketCounts:
    """issued: handed out at least once. trained: part of a finished update. rerun: handed out again after a simulator was lost."""

    issued: int = 0
    trained: int = 0
    rerun: int = 0


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """phase: start, demonstrate, clone, evaluate, train. total: steps, episodes or updates to come; 0 where unknown."""

    phase: str
    total: int = 0


@dataclass(frozen=True, slots=True)
class EpisodeFinished:
    """An episode of the present phase ended."""

    finished: Finished


@dataclass(frozen=True, slots=True)
class CloneStep:
    """Behaviour cloning advanced to `step` of `total`."""

    step: int
    total: int
    loss: float


@dataclass(frozen=True, slots=True)
class UpdateFinished:
    """One update: the episodes it was made from, what the learner measured, and where everybody's time went since the last one.

    throughput: environment steps a second since training began (N_rollout_epochs x N_env x N_env_steps / T, RL-VLA3 equation 2).
    staleness: episodes of this update by staleness. wall_seconds: since training began.
    """

    update: int
    updates: int
    episodes: Sequence[Finished]
    learner: Mapping[str, float]
    environment_steps: int
    throughput: float
    staleness: Mapping[int, int]
    tickets: TicketCounts
    workers: Sequence[WorkerTime]
    wall_seconds: float


@dataclass(frozen=True, slots=True)
class SuccessRate:
    """Successes among episodes with the 95 % Wilson score interval. per_task: the same for each task."""

    successes: int
    episodes: int
    low: float
    high: float
    per_task: Mapping[str, SuccessRate] = field(default_factory=dict)
    mean_return: float = 0.0
    mean_steps: float = 0.0


@dataclass(frozen=True, slots=True)
class EvaluationFinished:
    """when: before, after, or eval for an evaluation of its own. version: of the policy that was evaluated."""

    when: str
    version: int
    success: SuccessRate


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know: a simulator was replaced, a checkpoint written, the run was interrupted."""

    text: str


Event = PhaseStarted | EpisodeFinished | CloneStep | UpdateFinished | EvaluationFinished | Notice


class Watcher(Protocol):
    """Anything that follows a run."""

    def on(self, event: Event) -> None: ...

    def close(self) -> None: ...
