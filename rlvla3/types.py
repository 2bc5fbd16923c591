"""The data that flows through the system: tickets, observations, decisions, outcomes.

Invariant: this file needs only the standard library and numpy. A simulator process imports it, and a simulator process never imports torch.

Shapes: C is the number of actions in a chunk. A is the number of action dimensions. S is the size of the proprioceptive state. H and W are the height and width
of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    from typing import Self  # Python 3.10, which a simulator may have, has none

Version = int
"""The number of updates done. Version 0 is the policy that a run starts from."""


BESIDE = 1 << 40
"""Tickets of an evaluation beside training are numbered from here on, so that no ticket of training has their numbers."""


class Purpose(Enum):
    """Why an episode is run. The purpose decides whether a policy or an expert acts, and whether the policy explores."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    DEMONSTRATE = "demonstrate"
    RECORD = "record"
    """As in evaluation, with seeds of its own: what is recorded may be trained on, and what is evaluated may not."""


class Sent:
    """The base of frozen data that processes send each other: it is pickled as its class and the values of its fields.

    Python's own way asks `dataclasses.fields` each time. That takes longer, and each call leaves a tuple in a list that Python keeps for tuples of this length:
    for days, a process would seem to grow with every message, until these lists are full.
    """

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), tuple([getattr(self, name) for name in self.__match_args__])  # of a list: a tuple of a generator is one of the kind above


@dataclass(frozen=True, slots=True)
class Ticket(Sent):
    """The right to run one episode.

    The index alone decides a ticket's task, seed, initial state and group. They are the same in every mode, on every machine and after every rerun.
    The tickets of a group share one task, one seed and one initial state.

    initial_state: the number of the initial state, where the task has a fixed set of them (Spaces.initial_states). None where the seed draws the initial state.
    """

    index: int
    task: str
    seed: int
    group: int
    purpose: Purpose = Purpose.TRAIN
    initial_state: int | None = None

    @property
    def beside(self) -> bool:
        """Whether it belongs to an evaluation beside training."""
        return self.index >= BESIDE


@dataclass(frozen=True, slots=True)
class ActionSpace:
    """The actions that a simulator accepts.

    kind: "continuous" is float32 [A] within [low, high]. "discrete" is one of `choices` options, written as a whole number into float32 [1].
    size: A. It is 1 for discrete actions.
    """

    kind: Literal["continuous", "discrete"]
    size: int
    choices: int = 0
    low: float = -1.0
    high: float = 1.0

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest number of an action. Choices are numbered from 0."""
        return (0.0, self.choices - 1.0) if self.kind == "discrete" else (self.low, self.high)


@dataclass(frozen=True, slots=True)
class InitialStates:
    """The fixed set of initial states of a task. They are numbered from 0.

    count: how many there are. name: of the set, the same in every recipe. A policy remembers under this name which of them it was trained on. Left empty, it
    is the name of the simulator with the name of the task. first: a part of a larger set has its name, and begins there: state k is number `first` + k of it.
    """

    count: int
    name: str = ""
    first: int = 0


@dataclass(frozen=True, slots=True)
class Spaces:
    """What a simulator shows and accepts. A policy is built from it.

    cameras: the shape [H, W, channels] of each camera's uint8 image.
    state: S. It is 0 where there is no state.
    max_steps: the length of the longest episode, in environment steps.
    instructions: the instructions that are known before the run.
    initial_states: {task: its fixed set of initial states}. A simulator without tasks names itself. A task that is not named draws them from the seed.
    """

    cameras: Mapping[str, tuple[int, int, int]]
    state: int
    action: ActionSpace
    max_steps: int
    instructions: tuple[str, ...] = ()
    initial_states: Mapping[str, InitialStates] = field(default_factory=dict)

    def decisions(self, chunk: int) -> int:
        """The largest number of decisions in an episode, where a decision has `chunk` actions."""
        return -(-self.max_steps // chunk)


@dataclass(slots=True)
class Observation:
    """What one environment shows when it needs a decision.

    images: {camera: uint8 [H, W, channels]}.
    state: float32 [S].
    instruction: what the policy is told for this decision. It may change within an episode.
    elapsed: the share of the episode's steps that are done, in [0, 1].
    """

    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    instruction: str = ""
    elapsed: float = 0.0


@dataclass(slots=True)
class Outcome:
    """The result of one chunk in one environment.

    actions: float32 [C, A]. They are the policy's chunk, or the chunk that the simulator's expert chose.
    rewards: float32 [executed], one for each executed environment step. There are fewer than C where the episode ended within the chunk.
    observation: what the next decision starts from. At a time limit it is the last observation. After a terminal state it is None.
    dimensions: how many dimensions of an action the environment uses. None means all.
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
    """One named array of the data plane: its shape for one decision, and its dtype."""

    shape: tuple[int, ...]
    dtype: DTypeLike

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), (self.shape, np.dtype(self.dtype).str)  # numpy's own names of types differ between its versions


Layout = Mapping[str, Field]
"""The arrays of a record. Simulator and policy agree on them before the run, so nothing is serialised during the run."""

INSTRUCTION_BYTES = 256
"""The longest instruction, in bytes of UTF-8."""


def observation_layout(spaces: Spaces) -> dict[str, Field]:
    """The arrays of one observation."""
    images = {f"image.{camera}": Field(shape, np.uint8) for camera, shape in spaces.cameras.items()}
    return images | {"state": Field((spaces.state,), np.float32), "elapsed": Field((), np.float32)}


def instruction_layout() -> dict[str, Field]:
    """The arrays of the instructions of an episode, which change seldom. They have a row for each decision, as the other arrays have.

    instruction.text: row n is the n-th instruction that the episode was given. Rows that were not needed are never written, and so take no memory.
    instruction.number: which of these texts a decision reads.
    """
    return {"instruction.number": Field((), np.int32), "instruction.text": Field((INSTRUCTION_BYTES,), np.uint8)}


def decision_layout(action_size: int, chunk: int, trace: Layout) -> dict[str, Field]:
    """The arrays of one decision: actions, log-prob, value, version, and the trace that the policy needs to evaluate the log-prob again."""
    traces = {f"trace.{name}": spec for name, spec in trace.items()}
    return traces | {
        "actions": Field((chunk, action_size), np.float32),
        "logprob": Field((chunk, action_size), np.float32),
        "value": Field((), np.float32),
        "version": Field((), np.int32),
    }


def outcome_layout(chunk: int) -> dict[str, Field]:
    """The arrays of one decision's outcome.

    rewards: one for each environment step. executed: how many steps of the chunk were executed.
    dimensions: how many dimensions of an action the environment uses.
    """
    return {"rewards": Field((chunk,), np.float32), "executed": Field((), np.int16), "dimensions": Field((), np.int16)}


EPISODE_LAYOUT: Layout = {
    "ticket": Field((), np.int64),
    "decisions": Field((), np.int32),
    "steps": Field((), np.int32),
    "success": Field((), np.bool_),
    "terminated": Field((), np.bool_),
}
"""The arrays of one episode. The arrays of its decisions are separate."""


@dataclass(frozen=True, slots=True)
class Finished(Sent):
    """The message that an episode has ended. It holds all that the ledger and the metrics need. The episode's arrays stay in the data plane.

    return_: the undiscounted sum of rewards.
    oldest, newest: the oldest and the newest policy version that made its decisions. Both are -1 where an expert acted.
    set_aside: there is no episode. The ticket has lost too many simulators, and is completed without one: no decisions, no steps, no return.
    """

    ticket: Ticket
    decisions: int
    steps: int
    success: bool
    return_: float
    oldest: Version = -1
    newest: Version = -1
    set_aside: bool = False

    @classmethod
    def without_episode(cls, ticket: Ticket) -> Finished:
        """A ticket that is set aside."""
        return cls(ticket, decisions=0, steps=0, success=False, return_=0.0, set_aside=True)


@dataclass(frozen=True, slots=True)
class TicketCounts(Sent):
    """issued: given to a shard at least once. trained: part of a finished update. rerun: issued again after a simulator was lost. set_aside: completed
    without an episode, because they lost their simulators again and again (engine.max_set_aside)."""

    issued: int = 0
    trained: int = 0
    rerun: int = 0
    set_aside: int = 0


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Decisions that go through the learner together. Each is named by its place in the data plane: its ticket and its row in the episode.

    epoch: 0 is the streamed pass over the update. Later epochs read the same decisions again.
    step: the optimizer step within the epoch.
    closes_step: the learner takes an optimizer step after this micro-batch.
    closes_epoch: this is the last micro-batch of its epoch.
    """

    tickets: NDArray[np.int64] = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    epoch: int
    step: int
    closes_step: bool
    closes_epoch: bool = False

    def __len__(self) -> int:
        return len(self.tickets)
