"""The events of a run, for its watchers: the progress table, metrics.jsonl, TensorBoard, summary.json.

The session emits these events in order. A watcher handles the events that it knows and never answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlvla3.observability.continuing import Continuation
from rlvla3.observability.evaluated_states import EvaluatedStates
from rlvla3.observability.film import Film
from rlvla3.types import Finished, TicketCounts


@dataclass(frozen=True, slots=True)
class WorkerTime:
    """How one worker spent its time, as shares of wall time. busy: by stage. idle: by what it waited for. All shares together sum to 1."""

    name: str
    busy: Mapping[str, float]
    idle: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """A phase of the run begins. phase: start, demonstrate, clone, evaluate or train. total: its steps, episodes or updates, 0 where unknown."""

    phase: str
    total: int = 0


@dataclass(frozen=True, slots=True)
class EpisodeFinished:
    """An episode of the present phase has ended."""

    finished: Finished


@dataclass(frozen=True, slots=True)
class CloneStep:
    """Behaviour cloning has done `step` of `total` steps."""

    step: int
    total: int
    loss: float


@dataclass(frozen=True, slots=True)
class UpdateFinished:
    """An update has finished.

    episodes: the episodes that it was made from. learner: the learner's metrics. workers: the time of each worker since the last update.
    throughput: environment steps per second since training began (N_rollout_epochs x N_env x N_env_steps / T, RL-VLA3 equation 2).
    staleness: {staleness: number of episodes}, for the episodes of this update. wall_seconds: since training began. batching: what each generator has chosen
    with engine.max_batch=auto (batching.py).
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
    batching: Sequence[Mapping[str, float]] = ()


@dataclass(frozen=True, slots=True)
class SuccessRate:
    """The number of successes among episodes. low, high: the 95 % Wilson score interval. per_task: the same for each task."""

    successes: int
    episodes: int
    low: float
    high: float
    per_task: Mapping[str, SuccessRate] = field(default_factory=dict)
    mean_return: float = 0.0
    mean_steps: float = 0.0


@dataclass(frozen=True, slots=True)
class EvaluationFinished:
    """An evaluation has finished. when: before, during or after training, or eval for an evaluation without training. version: the evaluated version of the
    policy. initial_states: where it began. None where no simulator has a fixed set of initial states. protocol: its name; None without one. best: whether it is
    the best one of a run that keeps its best checkpoint. planned: how many episodes it was to have, where it ended before them; None where it is complete.
    set_aside: its tickets that were set aside."""

    when: str
    version: int
    success: SuccessRate
    initial_states: EvaluatedStates | None = None
    protocol: str | None = None
    best: bool = False
    planned: int | None = None
    set_aside: int = 0

    @property
    def deviations(self) -> list[str]:
        """Where its episodes are not all of its protocol's, in words. Empty without a protocol."""
        if not self.protocol:
            return []
        there, all_of_them = self.success.episodes + self.set_aside, self.planned or self.success.episodes + self.set_aside
        ended = [f"the evaluation ended after {there} of {all_of_them} episodes"] if self.planned else []
        aside = f"{self.set_aside} of {all_of_them} episodes {'was' if self.set_aside == 1 else 'were'} set aside, and the protocol counts every episode"
        return ended + [aside] * bool(self.set_aside)


@dataclass(frozen=True, slots=True)
class EpisodeFilmed:
    """An episode was filmed. Whoever is told of it lets go of the film soon: films in memory are counted (runtimes/filming.py)."""

    film: Film


@dataclass(frozen=True, slots=True)
class Notice:
    """A message for the user: a simulator was replaced, a checkpoint was written, the run was interrupted."""

    text: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """The run goes on from a checkpoint, or begins anew in its folder. What was told of later updates is forgotten, because it is done again."""

    continuation: Continuation


Event = Resumed | PhaseStarted | EpisodeFinished | CloneStep | UpdateFinished | EvaluationFinished | EpisodeFilmed | Notice


class Watcher(Protocol):
    """An object that receives the events of a run."""

    def on(self, event: Event) -> None: ...

    def close(self) -> None: ...
