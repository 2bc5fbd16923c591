"""What flows through the system: tickets, observations, decisions, outcomes.

Everything here is plain Python and numpy: a simulator process imports this file and never imports torch.

Shapes: C is the number of actions in a chunk, A the number of action dimensions, S the size of the proprioceptive state,
H and W the height and width of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

Version = int
"""The number of updates done. Version 0 is the policy a run starts from."""


class Purpose(Enum):
    """Why an episode is run. It decides who acts, and whether actions are sampled with exploration noise."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    DEMONSTRATE = "demonstrate"


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to run one episode.

    A ticket's task, seed and group depend on its index alone, so they are the same in every mode, on every machine and
    after every rerun. Tickets of one group share task and seed, and so their initial state.
    """

    index: int
    task: str
    seed: int
    group: int
    purpose: Purpose = Purpose.TRAIN


@dataclass(frozen=True, slots=True)
class ActionSpace:
    """What a simulator accepts as one action.

    kind: "continuous": float32 [A] within [low, high]; "discrete": one choice out of `choices`, written as a whole number into float32 [1].
    """

    kind: Literal["continuous", "discrete"]
    size: int
    choices: int = 0
    low: float = -1.0
    high: float = 1.0


@dataclass(frozen=True, slots=True)
class Spaces:
    """What a simulator shows and accepts: all that a policy must know to be built for it.

    cameras: the shape [H, W, channels] of each camera's uint8 image. state: S, 0 where there is none.
    max_steps: the longest episode, in environment steps. instructions: those that are known before the run.
    """

    cameras: Mapping[str, tuple[int, int, int]]
    state: int
    action: ActionSpace
    max_steps: int
    instructions: tuple[str, ...] = ()

    def decisions(self, chunk: int) -> int:
        """The largest number of decisions an episode can have, at `chunk` actions a decision."""
        return -(-self.max_steps // chunk)


@dataclass(slots=True)
class Observation:
    """What one environment shows when a decision is due.

    images: camera -> uint8 [H, W, channels]. state: float32 [S]. elapsed: the share of the episode's steps already gone, in [0, 1].
    """

    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    instruction: str = ""
    elapsed: float = 0.0


@dataclass(slots=True)
class Outcome:
    """What came of one chunk in one environment.

    actions: float32 [C, A], the chunk as it was asked for (a policy's) or as the simulator's expert chose it (a demonstration's).
    rewards: float32 [executed], one for each environment step that was executed: fewer than C where the episode ended.
    observation: where the next decision starts from; at a time limit the last thing seen; None after a terminal state.
    dimensions: how many of an action's dimensions the environment takes (None: all).
    """

    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    observation: Observation | None
    success: bool = False
    terminated: bool = False
    truncated: bool = False
    dimensions: int | None = None

    @property
    def done(self) -> bool:
        return self.terminated or self.truncated


@dataclass(frozen=True, slots=True)
class Field:
    """One named array of the data plane: its shape for one decision, and its type."""

    shape: tuple[int, ...]
    dtype: DTypeLike


Layout = Mapping[str, Field]
"""The arrays that make up a record. Simulator and policy agree on it before the run; nothing is serialised afterwards."""

INSTRUCTION_BYTES = 256


def observation_layout(spaces: Spaces) -> dict[str, Field]:
    """The arrays of one observation."""
    images = {f"image.{camera}": Field(shape, np.uint8) for camera, shape in spaces.cameras.items()}
    return images | {"state": Field((spaces.state,), np.float32), "elapsed": Field((), np.float32)}


def decision_layout(action_size: int, chunk: int, trace: Layout) -> dict[str, Field]:
    """The arrays of one decision: actions, log-prob, value, version, and the trace from which the log-prob is evaluated again."""
    traces = {f"trace.{name}": spec for name, spec in trace.items()}
    return traces | {
        "actions": Field((chunk, action_size), np.float32),
        "logprob": Field((chunk, action_size), np.float32),
        "value": Field((), np.float32),
        "version": Field((), np.int32),
    }


def outcome_layout(chunk: int) -> dict[str, Field]:
    """The arrays of what came of one decision: `executed` environment steps of the chunk, of actions that have so many `dimensions` in their environment."""
    return {"rewards": Field((chunk,), np.float32), "executed": Field((), np.int16), "dimensions": Field((), np.int16)}


EPISODE_LAYOUT: Layout = {
    "ticket": Field((), np.int64),
    "decisions": Field((), np.int32),
    "steps": Field((), np.int32),
    "success": Field((), np.bool_),
    "terminated": Field((), np.bool_),
    "instruction": Field((INSTRUCTION_BYTES,), np.uint8),
}
"""One record an episode, beside its decisions."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The news that an episode has ended: all that the ledger and the metrics need; its data stay in the data plane.

    oldest, newest: the versions of the policy that made its decisions (-1 where an expert made them). `return_` is the undiscounted sum of rewards.
    """

    ticket: Ticket
    decisions: int
    steps: int
    success: bool
    return_: float
    oldest: Version = -1
    newest: Version = -1


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Decisions that go through the learner together, named by where they are: (ticket, row) pairs.

    epoch 0 is the streamed pass over the update, later ones come from memory. closes_step: the optimizer steps after this micro-batch. closes_epoch: it was
    the epoch's last.
    """

    tickets: NDArray[np.int64] = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    epoch: int
    step: int
    closes_step: bool
    closes_epoch: bool = False

    def __len__(self) -> int:
        return len(self.tickets)
