"""Which settings of a recipe a protocol fixes: paths such as simulator.max_steps, and their values.

What a policy of ours was trained to see, and its chunk, belong to its weights. There a protocol fixes nothing, and `kept` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from rlvla3.config import Recipe, SimulatorConfig
from rlvla3.errors import RecipeError
from rlvla3.evaluation.protocol import Protocol
from rlvla3.policies.registry import options_class

Path = tuple[str, ...]


@dataclass(frozen=True)
class FixedSettings:
    """values: {path: value}. kept: the same, for settings that the protocol has and that belong to the weights of this policy."""

    values: Mapping[Path, Any]
    kept: Mapping[Path, Any]


def fixed_settings(protocol: Protocol, recipe: Recipe, chosen: AbstractSet[Path]) -> FixedSettings:
    """What `protocol` fixes for the policy and the simulators of `recipe`. chosen: the settings of the user's. They may be tasks.

    Raises RecipeError for a task that the protocol does not know.
    """
    family = recipe.policy.name
    pretrained = options_class(family).Pretrained
    values: dict[Path, Any] = {}
    frames: dict[Path, Any] = {}
    episodes = 0
    for place, config in simulators_of(recipe).items():
        tasks = list(config.tasks if (*place, "tasks") in chosen else protocol.tasks or config.tasks)
        if protocol.tasks and (*place, "tasks") not in chosen:
            values |= {(*place, "tasks"): tasks, (*place, "task_weights"): []}
        episodes += protocol.episodes * len(tasks)
        values |= _of_simulator(protocol, place, tasks, family)
        frames |= {(*place, *path.split(".")): value for path, value in protocol.frames.items()}
    values[("evaluation", "episodes")] = episodes
    if protocol.states:
        values[("evaluation", "in_order")] = True
    of_policy = frames
    if (chunk := protocol.chunk(family)) is not None:
        of_policy = {**frames, ("policy", "chunk"): chunk}
    return FixedSettings({**values, **of_policy}, {}) if pretrained else FixedSettings(values, of_policy)


def simulators_of(recipe: Recipe) -> dict[Path, SimulatorConfig]:
    """{where its settings stand: a simulator}."""
    return {("simulators", name): config for name, config in recipe.simulators.items()} or {("simulator",): recipe.simulator}


def _of_simulator(protocol: Protocol, place: Path, tasks: Sequence[str], family: str) -> dict[Path, Any]:
    values = {(*place, *path.split(".")): value for path, value in {**protocol.settings, **protocol.settings_of.get(family, {})}.items()}
    limits = {task: _limit(protocol, task, family) for task in tasks}
    if limits:
        values[(*place, "max_steps")] = max(limits.values())
    if protocol.simulator == "libero":  # its suites have limits of their own
        values[(*place, "options", "suite_max_steps")] = {task.partition("/")[0]: limit for task, limit in limits.items()}
    if protocol.states:
        values[(*place, "initial_states", "evaluation")] = "all" if protocol.states == "all" else [protocol.states]
    return values


def _limit(protocol: Protocol, task: str, family: str) -> int:
    limit = protocol.limit(task, family)
    if limit is None:
        known = ", ".join(protocol.limits_of.get(family, protocol.limits))
        raise RecipeError(f"protocol {protocol.name} for {protocol.simulator} says nothing of {task}: it is for {known}. Set simulator.tasks to some of these")
    return limit
