"""What a protocol of evaluation is: the settings that a public script of evaluation fixes, as data. Each simulator's protocols are in a file of their own.

A figure of a protocol is read in its public code. `source` names the file and the commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ANY = "any"
"""In place of a family of policies: every pretrained policy."""


@dataclass(frozen=True)
class Protocol:
    """One protocol for one simulator. Paths of settings begin below `simulator`.

    episodes: of each task.
    states: the initial states of evaluation, as simulator.initial_states.evaluation has them; empty where the seed draws them.
    tasks: those that it evaluates; empty where it evaluates what the recipe names.
    limits: {suite or task: the longest episode in environment steps}. limits_of: the same for one family of policies.
    settings: other settings. settings_of: for one family.
    frames: settings of what a pretrained policy sees. A policy that was made here keeps its own.
    rotated: whether a policy gets robosuite's frames rotated by 180 degrees.
    chunks: {family, or ANY: how many actions of a decision are executed}, for pretrained policies.
    facts: what else it fixes, and how it is kept here. differences: what is not the same here.
    missing: why it cannot be run; empty where it can.
    """

    name: str
    simulator: str
    about: str
    source: str
    episodes: int
    states: str = ""
    tasks: Sequence[str] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    limits_of: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    settings_of: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    frames: Mapping[str, Any] = field(default_factory=dict)
    rotated: bool = False
    chunks: Mapping[str, int] = field(default_factory=dict)
    facts: Sequence[str] = ()
    differences: Sequence[str] = ()
    missing: str = ""

    def chunk(self, family: str) -> int | None:
        """How many actions of a decision of a pretrained policy are executed. None where the protocol leaves it to the policy."""
        return self.chunks.get(family, self.chunks.get(ANY))

    def limit(self, task: str, family: str) -> int | None:
        """The longest episode of a task such as libero_goal/3. None where the protocol does not know the task.

        A suite that begins with the name of a known one has its limit: libero_goal_task, of LIBERO-PRO, that of libero_goal.
        """
        limits = self.limits_of.get(family, self.limits)
        suite = task.partition("/")[0]
        known = [name for name in limits if name == task or suite == name or suite.startswith(f"{name}_")]
        return limits[max(known, key=len)] if known else None
