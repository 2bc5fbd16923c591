"""The settings of a simulator: what it runs, and in how many processes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from rlvla3.config.delay import DelayConfig
from rlvla3.config.initial_states import InitialStatesConfig
from rlvla3.config.section import Number, Positive, Seconds, Section, Workers
from rlvla3.scheduling.mix import SimulatorShare
from rlvla3.scheduling.sharding import Sharding

Weight = Annotated[int, Field(ge=1, le=1000), Number]
"""A share among others. A round of turns is as long as the weights' sum."""

MOST_TASKS = 1000
"""The most tasks of a simulator."""

MOST_TURNS = 5000
"""The longest round of turns. It is made with a pass over all weights for each turn."""


def _place(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda|(cuda|egl):(0|[1-9][0-9]{0,3})", name):
        raise ValueError("Input should be cpu, cuda, cuda:N or egl:N")
    return name


Place = Annotated[str, AfterValidator(_place)]
Python = Annotated[str, BeforeValidator(lambda given: "" if given is None else given)]
"""Where an interpreter is. Empty for the one of rlvla3."""


class SimulatorConfig(Section):
    """Which simulator runs, on which tasks, and in how many processes."""

    name: str = "metaworld"
    """`metaworld`, `libero`, `maniskill`, `robosuite`, `robocasa`, `gymnasium:ID`, or `module:Class` for one of your own."""

    python: Python = ""
    """The interpreter that its processes run in, if that is another one: the name of an environment that `rlvla3 env create` has made, such as `libero`, or the
    path of an interpreter, such as `/path/to/bin/python`. So simulators whose packages clash can run in one run. Empty or `null`: the interpreter of
    rlvla3."""

    tasks: list[str] = []
    """The tasks to train on. Groups of tickets take the tasks in turn. `libero_goal/0-9` is short for `libero_goal/0` to `libero_goal/9`. Written as a mapping
    from task to weight, a task with weight 2 has twice as many groups as one with weight 1. Simulators with a single task need no name here."""

    task_weights: list[Weight] = []
    """The weights of `tasks`, in the same order. An empty list gives all the same weight. It is usually easier to write `tasks` as a mapping."""

    weight: Weight = 1
    """The weight of this simulator among `simulators`, counted in groups of tickets."""

    shards: Workers = 8
    """Simulator processes."""

    slots: Workers = 1
    """Environments in one process. They are stepped together, and each runs its own ticket. Only simulators with batched environments accept more than 1."""

    cores: Workers | None = None
    """CPU cores that each shard is bound to. The cores of the host are assigned to the shards in turn. With `null` a shard may use all cores."""

    devices: list[Place] = []
    """What the shards use in turn, such as `[cuda:0, cuda:1]`. Simulators that draw with MuJoCo draw there: on GPUs, named by CUDA's number or by EGL's
    (`egl:0`), or on the CPU (`cpu`). With an empty list they use all GPUs that can draw, and the CPU if there is none. ManiSkill computes and draws there, and
    with an empty list on the CPU."""

    max_steps: Positive | None = None
    """The longest episode, in environment steps. With `null` the limit is the simulator's own."""

    timeout_s: Seconds = 60.0
    """Seconds. A shard that needs longer for one reset or one chunk counts as hung. It is killed and replaced."""

    build_timeout_s: Seconds = 600.0
    """Seconds. A simulator that is not built after this time counts as hung: in a run, and before it, when one is built to be described. Several that are built
    at once on few cores take longer than one alone. The run says every half minute how many are still being built."""

    initial_states: InitialStatesConfig = InitialStatesConfig()
    delay: DelayConfig = DelayConfig()

    check_frames: bool = True
    """Refuse frames of a single colour, and frames that never change within an episode. Set it to `false` if your environment is right to show such frames."""

    options: dict[str, Any] = {}
    """The simulator's own settings. Each simulator has others."""

    @model_validator(mode="before")
    @classmethod
    def _weigh_tasks(cls, given: Any) -> Any:
        """{task: weight} is short for tasks and task_weights, and task/0-9 for ten tasks."""
        tasks = given.get("tasks") if isinstance(given, Mapping) else None
        if isinstance(tasks, Mapping):
            weighed = [(task, weight) for named, weight in tasks.items() for task in _spelled_out(named)]
            return {**given, "tasks": [task for task, _ in weighed], "task_weights": [weight for _, weight in weighed]}
        if isinstance(tasks, list):
            return {**given, "tasks": [task for named in tasks for task in _spelled_out(named)]}
        return given

    @model_validator(mode="after")
    def _check_tasks(self) -> SimulatorConfig:
        if self.task_weights and len(self.task_weights) != len(self.tasks):
            raise ValueError(f"task_weights has {len(self.task_weights)} entries for {len(self.tasks)} tasks: write tasks as {{task: weight}} instead")
        if len(self.tasks) > MOST_TASKS:
            raise ValueError(f"tasks has {len(self.tasks)} entries: name at most {MOST_TASKS}")
        if repeated := [task for task, count in Counter(self.tasks).items() if count > 1]:
            raise ValueError(f"{repeated[0]} stands {self.tasks.count(repeated[0])} times in tasks: name it once, and write tasks as {{task: weight}}")
        check_round(self.task_weights, "the tasks")
        return self

    def share(self, name: str) -> SimulatorShare:
        """This simulator's part in a mix. name: of its only task, where none are named."""
        tasks = tuple(self.tasks) or (name,)
        return SimulatorShare(tasks, tuple(self.task_weights) or (1,) * len(tasks), self.weight)

    @property
    def sharding(self) -> Sharding:
        return Sharding(self.shards, self.slots, self.cores or 0, tuple(self.devices))


def _spelled_out(named: Any) -> list[Any]:
    """suite/0-9 is short for suite/0, suite/1 and so on to suite/9."""
    found = re.fullmatch(r"(.+/)([0-9]{1,99})-([0-9]{1,99})", named) if isinstance(named, str) else None
    if not found:
        return [named]
    first, last = int(found[2]), int(found[3])
    if not first <= last < first + MOST_TASKS:
        raise ValueError(f"{named} names tasks from {first} to {last}: the first number is the smaller one, and {MOST_TASKS} tasks are the most")
    return [f"{found[1]}{number}" for number in range(first, last + 1)]


def check_round(weights: Sequence[int], whose: str) -> None:
    """Raises ValueError if a round of turns with these weights is so long that it would take seconds to make. whose: for the message."""
    turns = sum(weights) // math.gcd(*weights) if weights else 0
    if turns > MOST_TURNS:
        raise ValueError(f"a round of turns with the weights of {whose} is {turns} turns long, and {MOST_TURNS} are the most: give smaller ones")
