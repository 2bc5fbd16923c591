"""The settings of a simulator: what it runs, and in how many processes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from rlvla3.config.initial_states import InitialStatesConfig
from rlvla3.config.section import Positive, PositiveFloat, Section
from rlvla3.scheduling.mix import SimulatorShare
from rlvla3.scheduling.sharding import Sharding

Weight = Annotated[int, Field(ge=1, le=1000)]
"""A share among others. A round of turns is as long as the weights' sum."""


class SimulatorConfig(Section):
    """Which simulator runs, on which tasks, and in how many processes."""

    name: str = "metaworld"
    """`metaworld`, `libero`, `maniskill`, `robosuite`, `robocasa`, `gymnasium:ID`, or `module:Class` for one of your own."""

    tasks: list[str] = []
    """The tasks to train on. Groups of tickets take the tasks in turn. `libero_goal/0-9` is short for `libero_goal/0` to `libero_goal/9`. Written as a mapping
    from task to weight, a task with weight 2 has twice as many groups as one with weight 1. Simulators with a single task need no name here."""

    task_weights: list[Weight] = []
    """The weights of `tasks`, in the same order. An empty list gives all the same weight. It is usually easier to write `tasks` as a mapping."""

    weight: Weight = 1
    """The weight of this simulator among `simulators`, counted in groups of tickets."""

    shards: Positive = 8
    """Simulator processes."""

    slots: Positive = 1
    """Environments in one process. They are stepped together, and each runs its own ticket. Only simulators with batched environments accept more than 1."""

    cores: Positive | None = None
    """CPU cores that each shard is bound to. The cores of the host are assigned to the shards in turn. With `null` a shard may use all cores."""

    devices: list[str] = []
    """What the shards use in turn, such as `[cuda:0, cuda:1]`. Simulators that draw with MuJoCo draw there: on GPUs, named by CUDA's number or by EGL's
    (`egl:0`), or on the CPU (`cpu`). With an empty list they use all GPUs that can draw, and the CPU if there is none. ManiSkill computes and draws there, and
    with an empty list on the CPU."""

    max_steps: Positive | None = None
    """The longest episode, in environment steps. With `null` the limit is the simulator's own."""

    timeout_s: PositiveFloat = 60.0
    """Seconds. A shard that needs longer for one reset or one chunk counts as hung. It is killed and replaced."""

    initial_states: InitialStatesConfig = InitialStatesConfig()
    options: dict[str, Any] = {}
    """The simulator's own settings. Each simulator has others."""

    @model_validator(mode="before")
    @classmethod
    def _weigh_tasks(cls, given: Any) -> Any:
        """{task: weight} is short for tasks and task_weights, and task/0-9 for ten tasks."""
        tasks = given.get("tasks") if isinstance(given, Mapping) else None
        if isinstance(tasks, Mapping):
            weighed = [(task, weight) for named, weight in tasks.items() for task in _spelled_out(str(named))]
            return {**given, "tasks": [task for task, _ in weighed], "task_weights": [weight for _, weight in weighed]}
        if isinstance(tasks, list):
            return {**given, "tasks": [task for named in tasks for task in _spelled_out(str(named))]}
        return given

    @model_validator(mode="after")
    def _check_tasks(self) -> SimulatorConfig:
        if self.task_weights and len(self.task_weights) != len(self.tasks):
            raise ValueError(f"task_weights has {len(self.task_weights)} entries for {len(self.tasks)} tasks: write tasks as {{task: weight}} instead")
        if repeated := [task for task in dict.fromkeys(self.tasks) if self.tasks.count(task) > 1]:
            raise ValueError(f"{repeated[0]} stands {self.tasks.count(repeated[0])} times in tasks: name it once, and write tasks as {{task: weight}}")
        return self

    def share(self, name: str) -> SimulatorShare:
        """This simulator's part in a mix. name: of its only task, where none are named."""
        tasks = tuple(self.tasks) or (name,)
        return SimulatorShare(tasks, tuple(self.task_weights) or (1,) * len(tasks), self.weight)

    @property
    def sharding(self) -> Sharding:
        return Sharding(self.shards, self.slots, self.cores or 0, tuple(self.devices))


def _spelled_out(named: str) -> list[str]:
    """suite/0-9 is short for suite/0, suite/1 and so on to suite/9."""
    found = re.fullmatch(r"(.+/)(\d+)-(\d+)", named)
    return [f"{found[1]}{number}" for number in range(int(found[2]), int(found[3]) + 1)] if found else [named]
